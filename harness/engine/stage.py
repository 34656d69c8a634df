"""One stage of training: epochs of batches, validation after each, and the tested epoch's predictions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.optim.swa_utils import update_bn

from harness.api import Backbone, Stage
from harness.config import Precision
from harness.data.augment import Augment, Draws, View
from harness.engine.average import Average
from harness.engine.batches import BatchSize, Split
from harness.engine.checkpoint import Checkpoints, Position, Saved, digest, optimizer_tensors, restore_optimizer
from harness.engine.cut import CutError, cut
from harness.engine.device import autocast, free_memory, most_memory, out_of_memory
from harness.engine.features import FeatureCache, Features, Rows, source
from harness.engine.forms import InferenceForms, keep_in_bf16
from harness.engine.model import is_trained, norms_held, prepare, set_train_mode, trained_blocks
from harness.engine.rates import Rates, optimizer_of
from harness.engine.seeds import generator, seed_for
from harness.engine.steps import Shown, Steps, add_noise, own_stream
from harness.errors import BrokenPluginError, Stopped, TrainingError
from harness.measure.clock import now
from harness.results import EpochResult, Event, Note, Prediction, Progress, StageResult, StageStarted

__all__ = ["Trainer", "forward"]

State = dict[str, Tensor]

# Where its size changes nothing but speed. A CPU computes no faster in larger batches, which take more memory.
_BATCH_SIZES = {"cpu": {"fp32": 16, "bf16": 32}, "cuda": {"fp32": 512, "tf32": 512, "bf16": 512}}
_TOLD_SECONDS = 0.1  # between two readings of a GPU's sums, each of which waits for it
_SAMPLE = 2  # images that a network's graph is tried out on


def forward(
    network: Callable[..., Any], inputs: Rows, backbone: Backbone, classes: int, precision: Precision
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run a network, or what of it comes after features: float32 logits (n, classes), and those of auxiliary heads.

    Raises:
        BrokenPluginError: the backbone gives no logits, or some of another shape than its head.
    """
    with autocast(inputs[0].device, precision):
        logits, auxiliary = backbone.logits(network(*inputs))
    expected = (len(inputs[0]), classes)
    if not isinstance(logits, Tensor):
        raise BrokenPluginError(
            f"the backbone gives a {type(logits).__name__}; expected a tensor of logits, which its method `logits` "
            "takes from what the network returns"
        )
    if logits.shape != expected:
        raise BrokenPluginError(f"the backbone gives logits of shape {tuple(logits.shape)}; expected {expected}")
    return logits.float(), tuple(other.float() for other in auxiliary)


@dataclass
class _Frozen:
    """A stage whose network is cut: what is trained, and the features that it is trained on.

    ``evaluated`` holds the features of views of val and test, ``kept`` those of the training images where nothing is
    drawn.
    """

    tail: nn.Module
    forms: InferenceForms
    features: Features
    evaluated: dict[tuple[str, View], Rows] = field(default_factory=dict)
    kept: Rows | None = None


@dataclass(frozen=True)
class _Epoch:
    """What an epoch shows: image ``items[i]`` with the crop and flip ``draws[i]``, for each i of ``order``."""

    items: Tensor
    draws: Draws
    order: Tensor


@dataclass
class _Work:
    """A stage in progress.

    ``epochs`` are those that have ended. ``best`` holds the best one's weights where ``keep_best`` is.
    """

    stage: Stage
    optimizer: torch.optim.Optimizer
    rates: Rates
    average: Average
    position: Position
    epochs: list[EpochResult]
    keep_best: bool
    steps: Steps = field(init=False)
    frozen: _Frozen | None = None
    best: State | None = None
    saved: Saved | None = None

    @property
    def over(self) -> bool:
        """Tell whether there is no epoch to come."""
        stage, done = self.stage, self.position.epoch - 1
        waited = done - _best(self.epochs).epoch if self.epochs else 0
        return done >= stage.epochs or (stage.patience is not None and waited >= stage.patience)

    @property
    def taken(self) -> int:
        """How many features came from earlier runs."""
        return self.frozen.features.taken if self.frozen else 0


@dataclass
class Trainer:
    """One network on one data set. :meth:`run_stage` may be called for stage after stage.

    ``circumstances`` are recorded with each stage's execution.
    """

    module: nn.Module
    backbone: Backbone
    augment: Augment
    splits: dict[str, Split]
    seed: int
    device: torch.device
    precision: Precision
    emit: Callable[[Event], None]
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    cache: FeatureCache | None = None
    circumstances: dict[str, Any] = field(default_factory=dict)
    _trained: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        if self.device.type == "cuda" and self.precision == "bf16":
            from harness.engine.norms import use_fast_norms  # Triton, which comes with torch for GPUs

            use_fast_norms(self.module)
        self._forms = self._new_forms()
        self._batch_size = BatchSize(_BATCH_SIZES[self.device.type][self.precision], self._note)
        head = self.module.get_submodule(self.backbone.head)
        self._classes = int(head.out_channels if isinstance(head, nn.Conv2d) else head.out_features)  # type: ignore[arg-type]

    def _note(self, text: str) -> None:
        self.emit(Note(text))

    def _new_forms(self) -> InferenceForms:
        return InferenceForms(self.precision, self.augment.normalize)

    def skip_stage(self, stage: Stage) -> None:
        """Take note of a stage that an earlier process ended, whose weights are in the checkpoint."""
        self._trained.update(map(id, prepare(self.module, self.backbone, stage)))

    def run_stage(
        self,
        stage: Stage,
        index: int,
        following: Stage | None = None,
        saved: Saved | None = None,
        recorded: Sequence[EpochResult] = (),
    ) -> State | None:
        """Train one stage, leaving the tested epoch's weights in the network.

        Args:
            stage: what to do.
            index: its position in the schedule.
            following: the stage after it.
            saved: a checkpoint of this stage to go on from.
            recorded: the results of this stage's epochs before the checkpoint's.

        Returns:
            The weights that ``following`` starts from, where they are not the tested ones.

        Raises:
            TrainingError: the loss or the predictions are no numbers any more.
            MemoryError: a batch does not fit.
            BrokenPluginError: the backbone's logits do not fit the classes.
            Stopped: somebody wanted the run to stop; the checkpoint says where it stood.
        """
        with own_stream(self.device), norms_held(self.module, stage):
            return self._run_stage(stage, index, following, saved, recorded)

    def _run_stage(
        self, stage: Stage, index: int, following: Stage | None, saved: Saved | None, recorded: Sequence[EpochResult]
    ) -> State | None:
        wanted = following.start_from if following else stage.checkpoint
        blocks = trained_blocks(self.module, self.backbone, stage)
        parameters = prepare(self.module, self.backbone, stage)
        self._trained.update(map(id, parameters))
        trainable = sum(parameter.numel() for parameter in parameters)
        self.emit(StageStarted(stage.name, index, stage.epochs, trainable))
        optimizer = optimizer_of(stage, blocks)
        work = _Work(
            stage,
            optimizer,
            Rates(stage, optimizer, self._batches(stage)),
            Average(stage, self._moved()),
            Position(index),
            list(recorded),
            "best" in (stage.checkpoint, wanted),
        )
        if saved is not None:
            self._restore(work, saved)
        begin = now()
        try:
            work.frozen = self._freeze(stage)
            way: dict[str, Any] = {
                "training": "head on features" if stage.trainable == "head" else "last blocks on features"
            }
        except CutError as error:
            way = {"training": "whole network", "because": str(error)}
        work.steps = self._steps(work)
        work.position.seconds += now() - begin  # the first epoch bears the cost

        while not work.over:
            if work.position.epoch in stage.unfreeze_at:
                work.steps = self._steps(work)
            result = self._epoch(work)
            self.emit(result)
            work.position = Position(index, result.epoch + 1)
            self._pause(work)
        begin = now()
        epochs = work.epochs
        if len(epochs) < stage.epochs:
            self._note(f"{stage.name} ends after epoch {len(epochs)}: no better one for {stage.patience} epochs")
        if work.average.mean:
            with self._averaged(work, epochs[-1].epoch):
                mean = self._copy()
            self.load(mean)
        tested = epochs[-1]
        start = work.best
        if stage.checkpoint == "best" and work.best is not None:
            tested = _best(epochs)
            start = self._copy() if wanted == "last" else None
            self.load(work.best)
        validated = Prediction("val", self._predict("val", work))
        taken, testing = work.taken, now()
        predictions = (validated, Prediction("test", self._predict("test", work)))
        if work.taken == taken:  # features of another run say nothing about speed
            way["test_images_per_second"] = len(self.splits["test"].labels) / (now() - testing)
        self.emit(
            StageResult(
                stage=stage.name,
                tested_epoch=tested.epoch,
                seconds=sum(epoch.seconds for epoch in epochs) + now() - begin,
                images_per_second=median(epoch.images_per_second for epoch in epochs),
                predictions=predictions,
                weights_sha256=digest(self.module.state_dict()),
                optimizer_sha256=digest(*optimizer_tensors(work.optimizer)),
                execution=way | self._execution(work),
            )
        )
        return start if wanted != stage.checkpoint else None

    def _pause(self, work: _Work) -> float:
        """Between two batches: write a checkpoint if it is time to, and stop if somebody wants that.

        Returns:
            The seconds that it took, which are not of training.
        """
        begin = now()
        stop = self.checkpoints.stopping()
        if stop or self.checkpoints.due():
            tensors, plain = self._state(work)
            self.checkpoints.save(work.position, plain, tensors)
        if stop:
            raise Stopped
        return now() - begin

    def _state(self, work: _Work) -> tuple[dict[str, Tensor], dict[str, Any]]:
        optimizer, plain = optimizer_tensors(work.optimizer)
        groups = {
            "module": self._moved(),
            "best": work.best or {},
            "optimizer": optimizer,
            "average": work.average.mean,
        }
        if work.position.batch:  # in the middle of an epoch
            groups["random"] = {"cpu": torch.get_rng_state()}
            if self.device.type == "cuda":
                groups["random"]["cuda"] = torch.cuda.get_rng_state(self.device)
        tensors = {f"{group}/{name}": value for group, values in groups.items() for name, value in values.items()}
        return tensors, {"optimizer": plain, "best": work.best is not None, "averaged": work.average.number}

    def _moved(self) -> State:
        """Return what training may have changed: all buffers, and the parameters that some stage has trained."""
        return {
            name: value.detach()
            for name, value in self.module.state_dict(keep_vars=True).items()
            if not isinstance(value, nn.Parameter) or id(value) in self._trained
        }

    def _copy(self) -> State:
        return {name: value.clone() for name, value in self._moved().items()}

    def load(self, state: State) -> None:
        """Give what training may have changed the values that it had, as :meth:`run_stage` returned them."""
        moved = self._moved()
        for name, value in state.items():
            moved[name].copy_(value)

    def _restore(self, work: _Work, saved: Saved) -> None:
        groups: dict[str, State] = {"module": {}, "best": {}, "optimizer": {}, "average": {}, "random": {}}
        for key, value in saved.tensors.items():
            group, _, name = key.partition("/")
            groups[group][name] = value
        self.load(groups["module"])
        if saved.plain["best"]:
            work.best = groups["best"]
        restore_optimizer(work.optimizer, groups["optimizer"], saved.plain["optimizer"])
        work.average.restore(groups["average"], saved.plain["averaged"])
        work.position = saved.position
        epochs = saved.position.epoch - 1
        batches = epochs * self._batches(work.stage) + saved.position.batch
        work.rates.step(batches if work.stage.lr.step_every == "batch" else epochs)
        if groups["random"]:
            work.saved = Saved(saved.position, {}, groups["random"])

    def _freeze(self, stage: Stage) -> _Frozen:
        """Cut the network where the stage leaves most of it alone.

        Raises:
            CutError: it cannot be, and why.
        """
        if stage.trainable == "all":
            raise CutError("every layer is trained")
        if stage.unfreeze_at:
            raise CutError("layers are unfrozen on the way")
        set_train_mode(self.module, stage)
        train = self.splits["train"]
        images = train.batch(torch.arange(min(len(train.labels), _SAMPLE)), self.device)
        inputs = self.augment.inputs(images)
        parts = cut(self.module, self.backbone.logits, inputs)
        with torch.no_grad():
            of_one = sum(feature[0].nbytes for feature in parts.features(inputs))
        needed = of_one * sum(len(split.labels) for split in self.splits.values())
        if needed > (free_memory(self.device) or most_memory()) / 8:
            raise CutError(f"the features of all images take {needed / 2**30:.1f} GiB")
        forms = self._new_forms()
        trunk = forms.make(parts.trunk, images)
        how = f"{self.precision}, fused: {forms.fused}, {images.shape[1]} channels, {parts.code} {source(parts.trunk)}"
        key = digest(dict(parts.trunk.named_parameters()) | dict(parts.trunk.named_buffers()), how)
        features = Features(
            trunk, self.augment, self.device, self.precision, self._batch_size, self.cache, key, self._note
        )
        if self.precision == "bf16":
            keep_in_bf16(parts.tail, but=is_trained)
        return _Frozen(parts.tail, forms, features)

    def _execution(self, work: _Work) -> dict[str, Any]:
        """Say how the stage was computed, for the record."""
        forms = work.frozen.forms if work.frozen else self._forms
        found = self.circumstances | {"batch_size": self._batch_size.size, "fused": bool(forms.fused)}
        if self.device.type == "cuda":
            found["captured"] = work.steps.captured
            if work.steps.because is not None:
                found["not_captured_because"] = work.steps.because
        if forms.because is not None:
            found["not_fused_because"] = forms.because
        if work.frozen is not None:
            features = work.frozen.features
            found |= {
                "features_computed": features.computed,
                "features_taken": features.taken,
                "features_taken_seconds": features.taken_seconds,
            }
        return found

    def _predict(self, split: str, work: _Work) -> NDArray[np.float32]:
        """Return logits (n, classes) of a split, in its order, in eval mode.

        Of several views it is the logarithm of their mean probabilities.
        """
        of_views = [self._look(split, work, number) for number in range(len(self.augment.views))]
        if len(of_views) == 1:
            return of_views[0].numpy()
        logs = torch.stack([F.log_softmax(logits.double(), dim=1) for logits in of_views])
        return (logs.logsumexp(dim=0) - math.log(len(logs))).float().numpy()

    def _look(self, split: str, work: _Work, number: int) -> Tensor:
        """Return the logits of one view of a split's images."""
        images, phase = self.splits[split], f"{work.stage.name}: {split}"
        n, views = len(images.labels), self.augment.views
        view = views[number]

        def watch(done: int) -> None:
            self.emit(Progress(phase, number * n + done, len(views) * n))

        def crops(part: slice) -> Tensor:
            return self.augment.crop(images.batch(torch.arange(n)[part], self.device), view)

        if work.frozen is not None:
            if (split, view) not in work.frozen.evaluated:
                rows = work.frozen.features.rows(images, torch.arange(n), view, watch)
                work.frozen.evaluated[split, view] = rows
            made = work.frozen.evaluated[split, view]
        if work.frozen:
            network: nn.Module = work.frozen.tail
        elif self.device.type == "cuda":  # it takes longer to make a form of it than to compute all images
            network = nn.Sequential(self.augment.normalize, self.module)
        else:
            network = self._forms.make(self.module, crops(slice(0, _SAMPLE)))

        def inputs(part: slice) -> Rows:
            if work.frozen is None:
                return (crops(part),)
            return tuple(feature[part].clone() for feature in made)  # a layer may compute in place

        self.module.eval()
        found = []
        with torch.inference_mode():
            for done, logits in self._batch_size.over(n, lambda part: self._forward(network, inputs(part))[0]):
                found.append(logits.cpu())
                watch(done)
        predicted = torch.cat(found)
        if not predicted.isfinite().all():
            raise _diverged(work.stage.name, f"its predictions of {split} are not finite")
        return predicted

    def _forward(self, network: nn.Module, inputs: Rows) -> tuple[Tensor, tuple[Tensor, ...]]:
        return forward(network, inputs, self.backbone, self._classes, self.precision)

    def _shown(self, work: _Work, epoch: _Epoch, watch: Callable[[int], None]) -> Shown:
        """Return what the trained part of the network is shown, on the device that it is read from."""
        train, frozen, draws = self.splits["train"], work.frozen, epoch.draws
        labels = train.labels[epoch.items].to(self.device)
        if frozen is not None and draws.boxes is None and draws.flips is None:
            if frozen.kept is None:
                frozen.kept = frozen.features.rows(train, torch.arange(len(train.labels)), draws, watch)
            kept = frozen.kept
            return Shown((epoch.items.to(self.device),), labels, lambda picked: tuple(each[picked[0]] for each in kept))
        if frozen is not None:
            return Shown(frozen.features.rows(train, epoch.items, draws, watch), labels, lambda picked: picked)

        def augmented(picked: Rows) -> Rows:
            items, *drawn = picked
            return (self.augment.inputs(train.batch(items, self.device), draws.of(drawn)),)

        place = train.images.device
        return Shown(tuple(each.to(place) for each in (epoch.items, *draws.tensors())), labels, augmented)

    def _epoch(self, work: _Work) -> EpochResult:
        stage, position, optimizer = work.stage, work.position, work.optimizer
        steps, epoch = work.steps, position.epoch
        begin = now() - position.seconds
        plan = self._plan(stage, epoch)
        n = len(plan.order)

        def watch(done: int) -> None:  # while features are computed, which is most of such an epoch
            nonlocal begin
            speed = done / (now() - begin)
            self.emit(
                Progress(stage.name, (epoch - 1) * n + done, stage.epochs * n, epoch=epoch, images_per_second=speed)
            )
            begin += self._pause(work)

        # Dropout and gradient-time draws of the network come from torch's own generators. Nothing draws in between, and
        # a checkpoint written while features are computed holds their state.
        torch.manual_seed(seed_for(self.seed, stage.name, "network", epoch))
        if work.saved is not None:
            self._restore_random(work.saved.tensors)
            work.saved = None
        shown = self._shown(work, plan, watch)
        steps.show(shown, position.loss_sum, position.correct)
        if position.batch:
            begin = now() - position.seconds  # features that are computed once more are not training
        set_train_mode(self.module, stage)
        batches = plan.order.to(shown.rows[0].device).split(stage.batch_size)
        told = 0.0
        for number, rows in enumerate(batches[position.batch :], position.batch + 1):
            try:
                steps.take(rows)
            except (MemoryError, RuntimeError) as error:
                if "does not have a deterministic implementation" in str(error):
                    raise TrainingError(
                        f"--deterministic: on a GPU this backbone does not train so ({str(error).split(', ')[0]})"
                    ) from error
                if not out_of_memory(error):
                    raise
                raise MemoryError(
                    f"to train on {stage.batch_size} images at a time, which is part of the recipe; "
                    f"--set {stage.name}.batch_size={stage.batch_size // 2 or 1} is another one: {error}"
                ) from error
            work.average.after_step()
            if stage.lr.step_every == "batch":
                work.rates.step()
            position.batch = number
            if self.device.type == "cpu" or number == len(batches) or now() - told >= _TOLD_SECONDS:
                done = min(number * stage.batch_size, n)
                position.loss_sum, position.correct = steps.totals()
                told = now()
                position.seconds = told - begin
                self.emit(
                    Progress(
                        stage.name,
                        (epoch - 1) * n + done,
                        stage.epochs * n,
                        epoch=epoch,
                        loss=position.loss_sum / done,
                        images_per_second=done / position.seconds,
                    )
                )
                begin += self._pause(work)
        if not math.isfinite(position.loss_sum):
            raise _diverged(stage.name, f"the loss of epoch {epoch} is {position.loss_sum}")
        speed = n / (now() - begin)
        if stage.lr.step_every == "epoch":
            work.rates.step()
        work.average.after_epoch(epoch)
        with self._averaged(work, epoch):
            logits_val = torch.from_numpy(self._predict("val", work))
            labels_val = self.splits["val"].labels
            result = EpochResult(
                stage=stage.name,
                epoch=epoch,
                lr=optimizer.param_groups[0]["lr"],
                train_loss=position.loss_sum / n,
                train_accuracy=position.correct / n,
                val_loss=float(F.cross_entropy(logits_val.double(), labels_val)),
                val_accuracy=float((logits_val.argmax(dim=1) == labels_val).double().mean()),
                seconds=now() - begin,
                images_per_second=speed,
            )
            work.epochs.append(result)
            if work.keep_best and _best(work.epochs) is result:
                work.best = self._copy()
        return result

    @contextmanager
    def _averaged(self, work: _Work, epoch: int) -> Iterator[None]:
        """Give the network the weights that are evaluated after an epoch, where those are an average."""
        stage = work.stage
        with work.average.in_place() as averaged:
            if averaged and stage.swa is not None and stage.batch_norm == "train":
                plan = self._plan(stage, epoch)
                with autocast(self.device, self.precision):
                    update_bn(self._augmented(plan, stage.batch_size), self.module)
            yield

    def _augmented(self, plan: _Epoch, batch_size: int) -> Iterator[Tensor]:
        train = self.splits["train"]
        for rows in plan.order.split(batch_size):
            yield self.augment.inputs(train.batch(plan.items[rows], self.device), plan.draws[rows])

    def _batches(self, stage: Stage) -> int:
        return math.ceil(len(self.splits["train"].labels) / stage.batch_size)

    def _steps(self, work: _Work) -> Steps:
        """Return what takes the steps of the coming epochs, until layers are unfrozen."""
        stage = work.stage
        parameters = prepare(self.module, self.backbone, stage, work.position.epoch)

        def disturb() -> None:
            step = (work.position.epoch - 1) * self._batches(stage) + work.position.batch
            add_noise(parameters, stage.gradient_noise, step)

        noise = disturb if stage.gradient_noise else None
        return Steps(self._losses(work), parameters, work.optimizer, self.device, noise)

    def _losses(self, work: _Work) -> Callable[[Rows, Tensor], tuple[Tensor, Tensor, Tensor]]:
        """Return what finds logits, their loss, and that with the auxiliary heads'."""
        network = self.module if work.frozen is None else work.frozen.tail
        criterion, share = work.stage.loss.make(self._class_weights(work.stage)), work.stage.auxiliary_weight

        def losses(inputs: Rows, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            logits, auxiliary = self._forward(network, inputs)
            loss = criterion(logits, labels)
            total = loss
            for other in auxiliary:
                total = total + share * criterion(other, labels)
            return logits, loss, total

        return losses

    def _restore_random(self, states: State) -> None:
        torch.set_rng_state(states["cpu"])
        if "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"], self.device)

    def _plan(self, stage: Stage, epoch: int) -> _Epoch:
        """Decide, from seed, stage and epoch alone, what the epoch shows and in which order."""
        labels = self.splits["train"].labels
        n = len(labels)
        shuffle = generator(self.seed, stage.name, "order", epoch)
        if stage.class_weights == "sampler":
            rarity = 1.0 / torch.bincount(labels).double()
            items, order = torch.multinomial(rarity[labels], n, replacement=True, generator=shuffle), torch.arange(n)
        else:
            items, order = torch.arange(n), torch.randperm(n, generator=shuffle)
        own = self.augment.transform.seed
        draws = self.augment.draw(n, generator(self.seed if own is None else own, stage.name, "augment", epoch))
        return _Epoch(items, draws, order)

    def _class_weights(self, stage: Stage) -> Tensor | None:
        if stage.class_weights != "inverse":
            return None
        counts = torch.bincount(self.splits["train"].labels).float()
        return (counts.sum() / (len(counts) * counts)).to(self.device)


def _diverged(stage: str, what: str) -> TrainingError:
    return TrainingError(f"training diverged in {stage}: {what}; lower the learning rate (--set {stage}.lr...)")


def _best(epochs: list[EpochResult]) -> EpochResult:
    """Highest validation accuracy; among equals the lowest validation loss, then the earliest."""
    return max(epochs, key=lambda epoch: (epoch.val_accuracy, -epoch.val_loss, -epoch.epoch))
