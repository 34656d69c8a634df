"""What every plugin has to hold to, as checks: for `harness plugin check`, and for the tests of a plugin's author.

from harness.testing.conformance import check_backbone

def test_my_net_conforms():
    assert [found for found in check_backbone(MyNet()) if not found.passed] == []
"""

from __future__ import annotations

import gc
import re
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from safetensors.torch import load, save
from torch import Tensor, nn

from harness import registry
from harness.api import (
    SGD,
    Backbone,
    ConstantLR,
    Dataset,
    DatasetOptions,
    Ensemble,
    Family,
    LearningRate,
    Loss,
    Optimizer,
    Schedule,
    Stage,
)
from harness.config import CheckTask, Precision, apply_to_dataset, parse_set
from harness.data.augment import Augment
from harness.engine.batches import Split
from harness.engine.checkpoint import digest
from harness.engine.device import autocast, resolve_device
from harness.engine.model import build, prepare, set_train_mode
from harness.engine.rates import learning_rates
from harness.engine.stage import Trainer, forward
from harness.engine.weights import load_state
from harness.errors import PluginNotFoundError
from harness.registry import Plugin
from harness.results import CheckResult, Event, StageResult
from harness.testing.checks import NonconformingError, Tell, offline, require, run_checks
from harness.testing.pieces import check_loss, check_optimizer, check_rate

__all__ = [
    "check_backbone",
    "check_dataset",
    "check_ensemble",
    "check_family",
    "check_loss",
    "check_optimizer",
    "check_package",
    "check_rate",
    "check_schedule",
    "execute",
]

HARNESS = "transfer-harness"
CLASSES = 3  # of the new head: no number that a network has by chance
BATCHES = (1, 2, 5)
_APART = 1e-3  # of the largest logit; another order of summing is apart by about 1e-6
_STEPS_PER_EPOCH, _MOST_STEPS = 20, 2000
_HEAD = Stage(name="head", epochs=1, trainable="head", batch_norm="eval", optimizer=SGD(), lr=ConstantLR(base=0.1))


def execute(task: CheckTask, emit: Tell, _stopping: Callable[[], bool] = lambda: False) -> None:
    """Load a plugin and check it, handing a :class:`~harness.results.CheckResult` of each check to ``emit``.

    Raises:
        HarnessError: it cannot be loaded.
    """
    plugin = registry.find(task.kind, task.name)
    loaded = registry.load(plugin, registry.BASES[task.kind])
    for result in check_package(plugin, emit):
        emit(result)
    if isinstance(loaded, Backbone):
        found = check_backbone(loaded, task.weights, emit)
    elif isinstance(loaded, Family):
        found = check_family(loaded, emit)
    elif isinstance(loaded, Schedule):
        found = check_schedule(loaded, emit)
    elif isinstance(loaded, LearningRate):
        found = check_rate(loaded, emit)
    elif isinstance(loaded, Optimizer):
        found = check_optimizer(loaded, emit)
    elif isinstance(loaded, Loss):
        found = check_loss(loaded, emit)
    elif isinstance(loaded, Ensemble):
        found = check_ensemble(loaded, emit)
    else:
        options = apply_to_dataset(task.name, None, loaded.Options, [parse_set(text) for text in task.settings])
        found = check_dataset(loaded, task.name, options, emit)
    for result in found:
        emit(result)


# --- packages ---------------------------------------------------------------------------------------------------------


def check_package(plugin: Plugin, tell: Tell = lambda _event: None) -> Iterator[CheckResult]:
    """Check what an installed plugin's package says of itself."""
    return run_checks(plugin, (_is_named_well,), tell)


def _is_named_well(plugin: Plugin) -> None:
    """Its name can be typed, and its package says that it needs harness."""
    require(
        re.fullmatch(r"\w[\w.-]*", plugin.entry_point.name), f"{plugin.name!r} has other signs than letters and -_."
    )
    distribution = plugin.entry_point.dist
    require(distribution is not None, "no distribution has it")
    requirements = [Requirement(text) for text in (distribution.requires or [])] if distribution else []
    needed = [
        canonicalize_name(one.name) for one in requirements if one.marker is None or one.marker.evaluate({"extra": ""})
    ]
    require(
        plugin.distribution == HARNESS or HARNESS in needed,
        f"{plugin.distribution} {plugin.version} does not name {HARNESS} among its dependencies",
    )


# --- backbones --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Backbone:
    backbone: Backbone
    weights: str
    device: torch.device

    def build(self, seed: int = 0, *, auxiliary: bool = False) -> nn.Module:
        module, _ = build(
            self.backbone,
            type(self.backbone).__name__,
            weights=self.weights,
            classes=CLASSES,
            auxiliary=auxiliary,
            seed=seed,
            note=lambda _text: None,
        )
        return module.to(self.device)

    def images(self, n: int) -> Tensor:
        size = self.backbone.input_size
        return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(n)).to(self.device)

    def logits(self, module: nn.Module, images: Tensor, precision: Precision = "fp32") -> Tensor:
        module.eval()
        with torch.inference_mode():
            return forward(module, (images,), self.backbone, CLASSES, precision)[0]


def check_backbone(
    backbone: Backbone, weights: str = "random", tell: Tell = lambda _event: None
) -> Iterator[CheckResult]:
    """Check a backbone; on a GPU too, where there is one.

    Args:
        backbone: the plugin's object.
        weights: ``random``, the name of a pretrained checkpoint that is on this machine, or an absolute path.
        tell: told of the progress.
    """
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for name in devices:
        device = resolve_device(name, "fp32", lambda _text: None)
        for result in run_checks(_Backbone(backbone, weights, device), _OF_BACKBONES, tell):
            yield result if name == "cpu" else replace(result, name=f"{result.name}, on a GPU")


def _describes_its_input(subject: _Backbone) -> None:
    """It says what its input is."""
    backbone = subject.backbone
    require(isinstance(backbone.input_size, int) and backbone.input_size > 0, f"input_size is {backbone.input_size!r}")
    require(0 < backbone.crop_pct <= 1, f"crop_pct is {backbone.crop_pct!r}, which should be a share of 1")
    for name in ("mean", "std"):
        values = getattr(backbone, name)
        require(len(values) == 3, f"{name} has {len(values)} numbers; expected one for each of R, G and B")
    require(
        all(0 <= level <= 1 for level in backbone.mean), f"mean is {backbone.mean}, which should be levels of 0 to 1"
    )
    require(all(level > 0 for level in backbone.std), f"std is {backbone.std}, which should be positive")


def _builds_offline(subject: _Backbone) -> None:
    """It is built without a network, its weights given."""
    with offline() as addresses:
        subject.build()
    require(not addresses, f"it connects to {addresses[0]} while it is built" if addresses else "")


def _gives_logits(subject: _Backbone) -> None:
    """It gives a row of finite logits for each image, whatever the batch."""
    module = subject.build()
    images = subject.images(max(BATCHES))
    whole = subject.logits(module, images)
    require(whole.isfinite().all(), "its logits are not finite")
    for n in BATCHES:
        _same(whole[:n], subject.logits(module, images[:n]), f"an image has other logits in a batch of {n}")


def _trains_its_head_alone(subject: _Backbone) -> None:
    """Frozen, it trains its head and changes nothing else, to the bit."""
    module = subject.build()
    trained = prepare(module, subject.backbone, _HEAD)
    set_train_mode(module, _HEAD)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    optimizer = torch.optim.SGD(trained, lr=0.1)
    logits, _ = forward(module, (subject.images(4),), subject.backbone, CLASSES, "fp32")
    nn.functional.cross_entropy(logits, torch.arange(4, device=logits.device) % CLASSES).backward()
    optimizer.step()
    moved = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    head = {name for name in before if name.startswith(f"{subject.backbone.head}.")}
    require(head & moved, f"its head, {subject.backbone.head!r}, does not learn")
    require(moved <= head, f"{_some(moved - head)} changed, though not trained")


def _trains_every_layer(subject: _Backbone) -> None:
    """Unfrozen, it trains."""
    module = subject.build()
    stage = _HEAD.model_copy(update={"trainable": "all", "batch_norm": "train"})
    trained = prepare(module, subject.backbone, stage)
    set_train_mode(module, stage)
    logits, auxiliary = forward(module, (subject.images(4),), subject.backbone, CLASSES, "fp32")
    require(auxiliary == (), "it gives auxiliary logits though built without auxiliary heads")
    nn.functional.cross_entropy(logits, torch.arange(4, device=logits.device) % CLASSES).backward()
    head = {id(value) for value in module.get_submodule(subject.backbone.head).parameters()}
    gradients = [value.grad for value in trained if value.grad is not None and id(value) not in head]
    require(gradients, "no gradient reaches the layers before its head")
    require(all(gradient.isfinite().all() for gradient in gradients), "its gradients are not finite")


def _has_its_auxiliary_heads(subject: _Backbone) -> None:
    """In training it gives logits of each auxiliary head that it names."""
    names = subject.backbone.auxiliary_heads
    if not names:
        return
    module = subject.build(auxiliary=True).train()
    _, auxiliary = forward(module, (subject.images(2),), subject.backbone, CLASSES, "fp32")
    require(
        len(auxiliary) == len(names), f"it names {len(names)} auxiliary heads, and gives logits of {len(auxiliary)}"
    )
    shapes = {tuple(logits.shape) for logits in auxiliary}
    require(shapes == {(2, CLASSES)}, f"its auxiliary logits are of shape {_some(map(str, shapes))}")


def _repeats(subject: _Backbone) -> None:
    """The same seed gives the same network, and the same network the same logits."""
    first, second = subject.build(), subject.build()
    require(digest(first.state_dict()) == digest(second.state_dict()), "the same seed gives other weights")
    images = subject.images(2)
    logits = subject.logits(first, images)
    require(torch.equal(logits, subject.logits(first, images)), "it gives other logits for the same images")
    other = subject.build(seed=1)
    head = f"{subject.backbone.head}.weight"
    require(not torch.equal(first.state_dict()[head], other.state_dict()[head]), "another seed gives the same head")


def _survives_safetensors(subject: _Backbone) -> None:
    """Its weights go through a file of safetensors and back."""
    module, other = subject.build(), subject.build(seed=1)
    state = {name: value.clone().contiguous() for name, value in module.state_dict().items()}
    load_state(other, load(save(state)))
    images = subject.images(2)
    _same(subject.logits(module, images), subject.logits(other, images), "with its weights, another gives other logits")


def _survives_pickling(subject: _Backbone) -> None:
    """It can be sent to another process."""
    module = subject.build()
    try:
        sent = ForkingPickler.dumps(module)
    except Exception as error:
        raise NonconformingError(f"its network cannot be pickled: {error}") from error
    images = subject.images(2)
    there: nn.Module = ForkingPickler.loads(sent)  # as multiprocessing does
    _same(subject.logits(module, images), subject.logits(there, images), "what arrives there gives other logits")


def _computes_in_bf16(subject: _Backbone) -> None:
    """It computes in bf16."""
    module, images = subject.build(), subject.images(2)
    with autocast(subject.device, "bf16"):
        logits = subject.logits(module, images, "bf16")
    require(logits.isfinite().all(), "its logits in bf16 are not finite")


def _computes_channels_last(subject: _Backbone) -> None:
    """It computes the same with channels last."""
    module, images = subject.build(), subject.images(2)
    expected = subject.logits(module, images)
    module.to(memory_format=torch.channels_last)
    found = subject.logits(module, images.contiguous(memory_format=torch.channels_last))
    _same(expected, found, "with channels last it gives other logits")


def _is_let_go(subject: _Backbone) -> None:
    """Its memory is freed with it."""
    module = subject.build()
    subject.logits(module, subject.images(1))
    there = weakref.ref(module)
    del module
    gc.collect()
    require(there() is None, "something keeps its network in memory")


_OF_BACKBONES = (
    _describes_its_input,
    _builds_offline,
    _gives_logits,
    _trains_its_head_alone,
    _trains_every_layer,
    _has_its_auxiliary_heads,
    _repeats,
    _survives_safetensors,
    _survives_pickling,
    _computes_in_bf16,
    _computes_channels_last,
    _is_let_go,
)


def _same(expected: Tensor, found: Tensor, otherwise: str) -> None:
    apart = float((expected - found).abs().max() / expected.abs().max().clamp(min=1e-6))
    require(apart < _APART, f"{otherwise} (apart by {apart:.1g} of the largest)")


def _some(names: Any) -> str:
    known = sorted(names)
    return ", ".join(known[:3]) + (f" and {len(known) - 3} more" if len(known) > 3 else "")


# --- families ---------------------------------------------------------------------------------------------------------


def check_family(family: Family, tell: Tell = lambda _event: None) -> Iterator[CheckResult]:
    """Check a family itself; its members are backbones."""
    return run_checks(family, _OF_FAMILIES, tell)


def _lists_its_names(family: Family) -> None:
    """It lists names, each once."""
    names = list(family.names())
    require(names, "it lists none")
    require(len(set(names)) == len(names), "it lists some name twice")
    require(all(name and ":" not in name and "," not in name for name in names), "a name has a colon or a comma")


def _gives_backbones(family: Family) -> None:
    """It gives a backbone for a name that it lists."""
    for name in family.names():
        try:
            made = family.backbone(name)
        except PluginNotFoundError:  # it lists some that harness cannot use
            continue
        require(isinstance(made, Backbone), f"for {name!r} it gives a {type(made).__name__}")
        return
    raise NonconformingError("it gives none for any name that it lists")


def _refuses_other_names(family: Family) -> None:
    """It refuses a name that it does not have."""
    try:
        made = family.backbone("no such network")
    except PluginNotFoundError:
        return
    raise NonconformingError(f"for 'no such network' it gives a {type(made).__name__}; expected a PluginNotFoundError")


_OF_FAMILIES = (_lists_its_names, _gives_backbones, _refuses_other_names)


# --- schedules --------------------------------------------------------------------------------------------------------


def check_schedule(schedule: Schedule, tell: Tell = lambda _event: None) -> Iterator[CheckResult]:
    """Check a schedule."""
    return run_checks(schedule, _OF_SCHEDULES, tell)


def _survives_json(schedule: Schedule) -> None:
    """It is the same after it was stored and read."""
    again = Schedule.model_validate_json(schedule.model_dump_json())
    require(again.model_dump() == schedule.model_dump(), "what is read is not what was stored")


def _has_rates(schedule: Schedule) -> None:
    """Each stage has a positive learning rate at every step."""
    for stage in schedule.stages:
        steps = min(stage.epochs * _STEPS_PER_EPOCH, _MOST_STEPS)
        rates = learning_rates(stage, _STEPS_PER_EPOCH, steps)
        bad = [(step, rate) for step, rate in enumerate(rates) if not 0 < rate < float("inf")]
        require(not bad, f"{stage.name} has the rate {bad[0][1]} at step {bad[0][0]}" if bad else "")


class _Tiny(Backbone):
    def __init__(self, blocks: int) -> None:
        self.head = str(blocks + 2)

    def architecture(self, *, auxiliary: bool) -> nn.Module:
        del auxiliary
        blocks = [nn.Conv2d(3, 3, 1) for _ in range(int(self.head) - 2)]
        return nn.Sequential(*blocks, nn.AvgPool2d(4), nn.Flatten(), nn.Linear(3 * 4 * 4, 1000))


def _blocks(stage: Stage) -> int:
    return len(stage.unfreeze_at) + (stage.trainable if isinstance(stage.trainable, int) else 0)


def _trains(schedule: Schedule) -> None:
    """Each stage trains a small network for an epoch."""
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (16, 16, 16, 1), dtype=torch.uint8, generator=draws)
    split = Split(images, torch.arange(16) % 2)
    backbone, device = _Tiny(max(map(_blocks, schedule.stages))), torch.device("cpu")
    augment = Augment(schedule.transform, 16, (0.5,) * 3, (0.5,) * 3)
    module, _ = build(backbone, "tiny", weights="random", classes=2, auxiliary=False, seed=0, note=lambda _text: None)
    events: list[Event] = []
    splits = {"train": split, "val": split, "test": split}
    trainer = Trainer(module, backbone, augment, splits, 0, device, "fp32", events.append)
    for index, stage in enumerate(schedule.stages):
        trainer.run_stage(stage.model_copy(update={"epochs": 1, "auxiliary_weight": 0.0}), index)
    ended = sum(isinstance(event, StageResult) for event in events)
    require(ended == len(schedule.stages), f"{ended} of {len(schedule.stages)} stages ended")


_OF_SCHEDULES = (_survives_json, _has_rates, _trains)


# --- ensembles --------------------------------------------------------------------------------------------------------


def check_ensemble(ensemble: Ensemble, tell: Tell = lambda _event: None) -> Iterator[CheckResult]:
    """Check an ensemble."""
    return run_checks(ensemble, _OF_ENSEMBLES, tell)


def _probabilities(members: int, n: int = 50) -> np.ndarray[Any, np.dtype[np.float64]]:
    drawn = np.random.default_rng(members).dirichlet(np.ones(CLASSES), (members, n))
    return np.asarray(drawn, np.float64)


def _fitted(ensemble: Ensemble, members: int, order: Sequence[int] | None = None) -> Ensemble:
    """Return it fitted to members of which some are better than others."""
    labels = np.arange(60) % CLASSES
    drawn = _probabilities(members, 60)
    better = drawn + np.linspace(0.5, 1.5, members)[:, None, None] * np.eye(CLASSES)[labels]
    given = better / better.sum(axis=2, keepdims=True)
    return ensemble.fit(given[list(order)] if order else given, labels.astype(np.int64))


def _gives_labels_and_scores(ensemble: Ensemble) -> None:
    """It gives a label and scores that sum to one for each image."""
    for members in (1, 2, 3, 5):
        given = _probabilities(members)
        found = _fitted(ensemble, members).combine(given.copy())
        n = given.shape[1]
        require(found.labels.shape == (n,), f"of {members} members its labels have shape {found.labels.shape}")
        require(np.issubdtype(found.labels.dtype, np.integer), f"its labels are {found.labels.dtype}")
        require(((found.labels >= 0) & (found.labels < CLASSES)).all(), "a label is none of the classes")
        require(found.scores.shape == (n, CLASSES), f"of {members} members its scores have shape {found.scores.shape}")
        require(np.isfinite(found.scores).all() and (found.scores >= 0).all(), "a score is negative, or not finite")
        require(np.allclose(found.scores.sum(1), 1), "its scores do not sum to one")


def _agrees_with_a_single_member(ensemble: Ensemble) -> None:
    """Of one member it says what that says, unless it is fitted."""
    if type(ensemble).fit is not Ensemble.fit:
        return
    given = _probabilities(1)
    found = ensemble.combine(given.copy())
    require((found.labels == given[0].argmax(1)).all(), "of one member, its labels are others than the member's")


def _does_not_mind_the_order(ensemble: Ensemble) -> None:
    """The order of its members does not matter, and the same members always give the same, ties too."""
    drawn = _probabilities(4)
    sharp = np.eye(CLASSES)[drawn.argmax(2)]  # nothing but certainties, so that there are ties
    for given in (drawn, sharp):
        first = _fitted(ensemble, 4).combine(given.copy())
        for order in ((0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2)):
            again = _fitted(ensemble, 4, order).combine(given[list(order)].copy())
            same = (first.labels == again.labels).all() and np.allclose(first.scores, again.scores, atol=1e-4)
            require(same, f"its members in the order {order} give something else")


def _leaves_its_input_alone(ensemble: Ensemble) -> None:
    """It changes nothing of what it is given."""
    given = _probabilities(3)
    before = given.copy()
    labels = np.arange(given.shape[1]) % CLASSES
    ensemble.fit(given, labels).combine(given)
    require(np.array_equal(given, before), "it writes into its members' probabilities")


def _is_fitted_by_a_copy(ensemble: Ensemble) -> None:
    """Fitting it gives a fitted rule, and leaves itself as it was."""
    before = {name: repr(value) for name, value in vars(ensemble).items()}
    _fitted(ensemble, 3)
    after = {name: repr(value) for name, value in vars(ensemble).items()}
    require(before == after, "fitting it changes it, so what it is fitted to leaks into what is fitted next")


_OF_ENSEMBLES = (
    _gives_labels_and_scores,
    _agrees_with_a_single_member,
    _does_not_mind_the_order,
    _leaves_its_input_alone,
    _is_fitted_by_a_copy,
)


# --- data sets --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Dataset:
    dataset: Dataset
    name: str
    options: DatasetOptions


def check_dataset(
    dataset: Dataset, name: str, options: DatasetOptions | None = None, tell: Tell = lambda _event: None
) -> Iterator[CheckResult]:
    """Check a data set, which has to be on this machine.

    Args:
        dataset: the plugin's object.
        name: the plugin's own.
        options: of the data set; by default its defaults.
        tell: told of the progress.
    """
    return run_checks(_Dataset(dataset, name, options or dataset.Options()), _OF_DATASETS, tell)


def _loads_the_same(subject: _Dataset) -> None:
    """It gives the same splits each time."""
    first, second = (subject.dataset.load(subject.name, subject.options) for _ in range(2))
    require(first.fingerprint == second.fingerprint, "the second time, its splits are others")


def _names_its_images(subject: _Dataset) -> None:
    """Its images have ids of their own, labels of its classes, groups and hashes."""
    splits = subject.dataset.load(subject.name, subject.options)
    require(len(splits.classes) > 1, f"it has {len(splits.classes)} classes")
    refs = [ref for of_split in splits.named().values() for ref in of_split]
    for name, of_split in splits.named().items():
        require(of_split, f"{name} is empty")
    require(len({ref.id for ref in refs}) == len(refs), "two images have the same id")
    for ref in refs:
        require(0 <= ref.label < len(splits.classes), f"{ref.id} has the label {ref.label}, which is no class")
        require(ref.group, f"{ref.id} has no group")
        well = len(ref.sha256) == 64 and set(ref.sha256) <= set("0123456789abcdef")
        require(well, f"{ref.id} has the sha256 {ref.sha256!r}")


def _gives_its_images(subject: _Dataset) -> None:
    """Images are read in the order asked for, in mode L or RGB, and are grey where it says so."""
    splits = subject.dataset.load(subject.name, subject.options)
    for name, refs in splits.named().items():
        asked = [ref.id for ref in (refs[-1], refs[0], refs[len(refs) // 2])]
        found = list(splits.images.read(asked))
        require(len(found) == len(asked), f"of {len(asked)} images of {name} it gives {len(found)}")
        for image_id, image in zip(asked, found, strict=True):
            require(image.mode in ("L", "RGB"), f"{image_id} is of mode {image.mode}")
            (alone,) = splits.images.read([image_id])
            require(alone.tobytes() == image.tobytes(), f"{image_id} has other pixels when it is read alone")
            if splits.images.grey and image.mode == "RGB":
                red, *others = (channel.tobytes() for channel in image.split())
                require(others == [red, red], f"{image_id} is not grey, as its data set says")


_OF_DATASETS = (_loads_the_same, _names_its_images, _gives_its_images)
