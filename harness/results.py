"""What a run produces, as plain frozen types: no SQL, no torch. Times are in UTC, durations in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Attempt",
    "Baseline",
    "CheckResult",
    "DatasetRecord",
    "EnsembleRecord",
    "Environment",
    "EpochResult",
    "Event",
    "Experiment",
    "Failure",
    "Measurement",
    "MeasurementSet",
    "Member",
    "Note",
    "Overlap",
    "Passport",
    "Pictures",
    "PlannedRun",
    "PluginRecord",
    "Prediction",
    "Progress",
    "Reason",
    "Run",
    "RunSetup",
    "RunStatus",
    "Selection",
    "SetStatus",
    "SplitRecord",
    "StageRecord",
    "StageResult",
    "StageStarted",
    "Sweep",
    "Turn",
    "Verdict",
    "WeightsRecord",
]

RunStatus = Literal["planned", "running", "completed", "failed", "interrupted", "lost"]
SetStatus = Literal["completed", "out of memory", "failed"]
Verdict = Literal["clean", "suspect", "leaky"]
Json = Mapping[str, Any]


# --- what the engine yields, in this order --------------------------------------------------------------------------


@dataclass(frozen=True)
class Environment:
    """The machine and software that a run's figures hold for.

    ``device`` is torch's name (``cpu``, ``cuda:0``); ``device_name`` is the model of it. ``details`` holds the rest:
    git, packages, cpu, gpu, driver, threads, precision flags.
    """

    device: str
    device_name: str
    python: str
    torch: str
    details: Json


@dataclass(frozen=True)
class WeightsRecord:
    """Where a run's initial weights came from. ``sha256`` is None for random weights alone."""

    kind: Literal["pretrained", "file", "random"]
    origin: str
    sha256: str | None


@dataclass(frozen=True)
class RunSetup:
    """Known once the backbone is built: first thing that a run yields. ``resumed`` says that it goes on from a
    checkpoint, made on the same machine with the same software.
    """

    environment: Environment
    weights: WeightsRecord
    parameters: int
    resumed: bool = False


@dataclass(frozen=True)
class StageStarted:
    """A stage begins. ``trainable`` counts the parameters that will move."""

    stage: str
    index: int
    epochs: int
    trainable: int


@dataclass(frozen=True)
class CheckResult:
    """A check of a plugin, in words. ``message`` says what is wrong, and ``details`` may be a traceback."""

    name: str
    message: str = ""
    details: str = ""

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.message


@dataclass(frozen=True)
class Turn:
    """A run waits for its turn on the device: to train, or to measure with nothing beside it. It is not stored."""

    to: Literal["train", "measure"]


@dataclass(frozen=True)
class Progress:
    """How far a phase has come, for a progress bar; it is not stored."""

    phase: str
    done: int
    total: int
    epoch: int | None = None
    loss: float | None = None
    images_per_second: float | None = None


@dataclass(frozen=True)
class Note:
    """Something that a person should read while the run goes on; it is not stored."""

    text: str


@dataclass(frozen=True)
class EpochResult:
    """Figures of one epoch, counted from 1. Loss is the mean over images of the loss that the stage trains by (plain
    cross-entropy for ``val_loss``), accuracy a share.

    ``train_*`` are taken while training, so with augmentation, dropout and moving weights. ``lr`` is the rate
    when the epoch had ended, which the next step takes.
    """

    stage: str
    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    seconds: float
    images_per_second: float


@dataclass(frozen=True)
class Prediction:
    """Logits (images, classes) as float32, one row an image, in the order of the split's images."""

    split: str
    logits: NDArray[np.float32]


@dataclass(frozen=True)
class StageResult:
    """End of a stage: the epoch whose weights were tested, and that epoch's predictions of val and test.

    ``seconds`` is the whole stage with validation; ``images_per_second`` counts training alone, as the median epoch.
    ``weights_sha256`` is of the tested weights and buffers, ``optimizer_sha256`` of the optimiser's state after the
    last epoch: equal digests say that two runs went the same way, bit for bit. ``execution`` says how the stage was
    computed, which changes its speed and nothing else.
    """

    stage: str
    tested_epoch: int
    seconds: float
    images_per_second: float
    predictions: tuple[Prediction, ...]
    weights_sha256: str
    optimizer_sha256: str
    execution: Json = field(default_factory=dict)


@dataclass(frozen=True)
class Measurement:
    """Raw samples of one quantity, with their unit. ``stage`` is None for what belongs to the whole model.

    Names in use: ``latency`` (seconds a batch, with ``batch_size``), ``rss_peak``, ``cuda_allocated_peak``,
    ``cuda_reserved_peak``, ``cuda_used``, ``parameters``, ``buffers`` (bytes), ``energy`` (joules an image), ``flops``,
    ``moved_bytes``, ``kernels`` (of a call), those of :mod:`harness.engine.roofs`, and ``loadgen_result``,
    ``scheduled_samples`` and ``sample_latency`` of :mod:`harness.engine.scenarios`.

    ``details`` says how the samples were taken; where there are none, ``details["absent"]`` says why.
    """

    name: str
    unit: str
    samples: NDArray[np.float64]
    device: str
    batch_size: int | None = None
    stage: str | None = None
    details: Json = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """Why a run did not complete. ``traceback`` is empty where the message says everything."""

    kind: str
    message: str
    traceback: str = ""


# An environment comes alone where no network is measured, but the machine.
Event = (
    Environment
    | RunSetup
    | StageStarted
    | Progress
    | Note
    | EpochResult
    | StageResult
    | Turn
    | Measurement
    | CheckResult
    | Failure
)


# --- what the store is given beside the events, and what it returns --------------------------------------------------


@dataclass(frozen=True)
class PluginRecord:
    """Which installed distribution a plugin came from."""

    kind: str
    name: str
    distribution: str
    version: str


@dataclass(frozen=True)
class SplitRecord:
    """The images of one split, in the order in which predictions are stored. ``labels`` and ids have one entry each."""

    name: str
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Reason:
    """Why a data set got its verdict, in words. ``spoils`` names the splits whose figures are too good for it."""

    verdict: Verdict
    text: str
    spoils: tuple[str, ...] = ()


@dataclass(frozen=True)
class Overlap:
    """What two splits share: ``patients`` (None where they are unknown), and ``files`` of different content.

    ``images`` of ``total`` in the second split show such a patient, or are such a file.
    """

    first: str
    second: str
    patients: int | None
    files: int
    images: int
    total: int


@dataclass(frozen=True)
class Baseline:
    """Answers given without looking at what an image shows: ``rule``, learned on train alone, in words.

    ``accuracy`` (a share) and ``auc`` are by split; a split where one is not defined is missing.
    """

    name: str
    rule: str
    accuracy: Mapping[str, float]
    auc: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Pictures:
    """What the images of all splits are like: how many sizes, least and most pixels a side, images by mode."""

    sizes: int
    width: tuple[int, int]
    height: tuple[int, int]
    modes: Mapping[str, int]


@dataclass(frozen=True)
class Passport:
    """What is known of a data set's images, and what that makes of figures on them; by :mod:`harness.analysis.audit`.

    ``reasons`` are those for the verdict and for milder ones, ``notes`` what could not be looked at. ``patients`` are
    by split, None where they are unknown. ``duplicate_files`` lie in ``duplicate_groups`` of identical ones, of which
    ``conflicts`` have several labels. ``majority`` always answers the most frequent class. ``baselines`` and
    ``pictures`` need the images themselves, and are None where nobody has looked at those.
    """

    verdict: Verdict
    reasons: tuple[Reason, ...]
    notes: tuple[str, ...]
    patients: Mapping[str, int] | None
    duplicate_groups: int
    duplicate_files: int
    conflicts: int
    overlaps: tuple[Overlap, ...]
    majority: Baseline | None
    baselines: tuple[Baseline, ...] | None = None
    pictures: Pictures | None = None

    @property
    def because(self) -> str:
        """The reasons that decided, as sentences."""
        return " ".join(f"{one.text[0].upper()}{one.text[1:]}." for one in self.reasons if one.verdict == self.verdict)


@dataclass(frozen=True)
class DatasetRecord:
    """A data set as it was used: ``fingerprint`` covers splits, labels, groups and the bytes of each image.

    ``counts`` gives images per split and class: ``{"train": {"NORMAL": 1341, ...}, ...}``. ``splits`` holds val and
    test, whose predictions are stored. ``passport`` is None for what was stored before there were any. ``subtypes``
    are kinds of images within the classes: a name, and how the groups (patients) of it begin, in small letters.
    """

    name: str
    fingerprint: str
    classes: tuple[str, ...]
    counts: Mapping[str, Mapping[str, int]]
    synthetic: bool
    citation: str
    licence: str
    splits: tuple[SplitRecord, ...] = ()
    passport: Passport | None = None
    subtypes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """A named set of runs and ensembles. ``commands`` is what users typed for it, each once, without passwords."""

    id: int
    name: str
    created_at: datetime
    commands: tuple[str, ...] = ()


@dataclass(frozen=True)
class StageRecord:
    """A stage as it is stored, also while it runs: then what is not known yet is None.

    ``test_confusion`` counts test images by [true label][predicted label]. ``threshold`` is the probability of class 1
    that makes sensitivity + specificity greatest on validation images, and ``threshold_correct`` counts the test images
    that are right at it; None with more than two classes. ``temperature`` is fitted on validation images. Both are of
    :mod:`harness.analysis.validation`.
    """

    name: str
    index: int
    planned_epochs: int
    trainable: int
    epochs: tuple[EpochResult, ...] = ()
    tested_epoch: int | None = None
    seconds: float | None = None
    images_per_second: float | None = None
    weights_sha256: str | None = None
    optimizer_sha256: str | None = None
    execution: Json = field(default_factory=dict)
    test_images: int | None = None
    test_correct: int | None = None
    val_accuracy: float | None = None
    test_auc: float | None = None
    test_confusion: tuple[tuple[int, ...], ...] | None = None
    threshold: float | None = None
    threshold_correct: int | None = None
    temperature: float | None = None
    predictions: Mapping[str, Prediction] = field(default_factory=dict)

    @property
    def test_accuracy(self) -> float | None:
        """Share of test images that were classified rightly."""
        if not self.test_images or self.test_correct is None:
            return None
        return self.test_correct / self.test_images


@dataclass(frozen=True)
class Attempt:
    """One process's work on a run. ``outcome`` is None while it lasts; ``host`` is empty where nobody noted it."""

    number: int
    host: str
    pid: int
    started_at: datetime
    heartbeat_at: datetime
    ended_at: datetime | None = None
    outcome: RunStatus | None = None
    failure: Failure | None = None


@dataclass(frozen=True)
class Run:
    """One backbone x schedule x dataset x seed, executed once, as it is stored.

    ``uid`` is unique across databases. ``config`` is the resolved configuration, ``config_hash`` its sha256.
    ``status`` is ``planned`` before the first attempt, and ``lost`` where the process of the last one is gone without a
    word. ``experiments`` holds at least one, the oldest first. ``stages`` carry their epochs, predictions, measurements
    and the splits' images where they were asked for.
    """

    id: int
    uid: str
    experiments: tuple[Experiment, ...]
    status: RunStatus
    backbone: str
    schedule: str
    seed: int
    config: Json
    config_hash: str
    plugins: tuple[PluginRecord, ...]
    dataset: DatasetRecord
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    environment: Environment | None = None
    weights: WeightsRecord | None = None
    parameters: int | None = None
    stages: tuple[StageRecord, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    tags: tuple[str, ...] = ()
    note: str = ""

    @property
    def experiment(self) -> Experiment:
        """The experiment that planned the run first."""
        return self.experiments[0]

    @property
    def failure(self) -> Failure | None:
        """Why the run did not complete, where its last attempt said so."""
        return self.attempts[-1].failure if self.attempts and self.status != "completed" else None

    def stage(self, name: str) -> StageRecord | None:
        """Return the stage of that name, or None where the run has none (yet)."""
        return next((stage for stage in self.stages if stage.name == name), None)


@dataclass(frozen=True)
class MeasurementSet:
    """What was measured of one thing in one process, without a run: a backbone, a machine, somebody's benchmark.

    ``suite`` says who measured (``bench``, ``loadgen``, ``roofs``, ...), ``name`` what, the same in every set that
    can be compared with it; sets of one command share a ``label``. ``commit`` is of the repository that was measured.
    ``message`` says what went wrong where ``status`` is another than ``completed``. ``uid`` is unique across databases.
    """

    label: str
    suite: str
    name: str
    config: Json
    environment: Environment | None = None
    measurements: tuple[Measurement, ...] = ()
    plugins: tuple[PluginRecord, ...] = ()
    weights: WeightsRecord | None = None
    status: SetStatus = "completed"
    message: str = ""
    commit: str | None = None
    created_at: datetime | None = None
    uid: str = ""
    id: int | None = None

    def measurement(self, name: str) -> Measurement | None:
        """Return the measurement of that name, or None where there is none."""
        return next((one for one in self.measurements if one.name == name), None)


@dataclass(frozen=True)
class Member:
    """One voter of an ensemble: a run, at the end of one of its stages."""

    run_id: int
    stage: str
    backbone: str = ""


@dataclass(frozen=True)
class EnsembleRecord:
    """An ensemble's decisions on one split: labels (n,) and scores (n, classes).

    ``threshold`` is the score of class 1 that makes sensitivity + specificity greatest on validation images, and
    ``threshold_correct`` counts the images that are right at it; None with more than two classes.
    """

    method: str
    split: str
    members: tuple[Member, ...]
    plugin: PluginRecord
    dataset: DatasetRecord
    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    images: int
    correct: int
    auc: float | None
    threshold: float | None = None
    threshold_correct: int | None = None
    id: int | None = None

    @property
    def accuracy(self) -> float:
        """Share of images that the ensemble classified rightly."""
        return self.correct / self.images


# --- what the store is asked for -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlannedRun:
    """A run to be. ``config_hash`` decides whether the database has it already."""

    backbone: str
    schedule: str
    seed: int
    config: Mapping[str, Any]
    config_hash: str
    plugins: tuple[PluginRecord, ...]
    dataset: DatasetRecord


@dataclass(frozen=True)
class Sweep:
    """What one command planned."""

    experiment: Experiment
    run_ids: tuple[int, ...]
    ensembles: tuple[str, ...]


@dataclass(frozen=True)
class Selection:
    """Runs to read. ``where`` is a filter such as ``backbone = resnet18 and accuracy > 0.86``.

    ``sort`` is a field of the filter's; runs that have no value there come last, and the newest first among equals.
    """

    where: str = ""
    experiment: str | None = None
    backbone: str | None = None
    status: str | None = None
    ids: tuple[int, ...] | None = None
    sort: str = "created"
    descending: bool = True
    limit: int | None = None
    offset: int = 0
