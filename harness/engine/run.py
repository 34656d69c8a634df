"""One run from its config to its last measurement."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from harness import registry
from harness.api import Backbone, Dataset, ImageSplits, Stage, Transform
from harness.config import Task
from harness.data.augment import Augment
from harness.data.decode import decode, release
from harness.data.splits import load_splits
from harness.engine.batches import Split, move
from harness.engine.bench import inference
from harness.engine.checkpoint import Checkpoints, Saved
from harness.engine.device import resolve_device
from harness.engine.features import FeatureCache
from harness.engine.model import build
from harness.engine.stage import Trainer
from harness.errors import DataError
from harness.measure.environment import read_environment
from harness.measure.latency import measure_latency
from harness.measure.memory import peaks, reset_peaks
from harness.measure.rule import Rule
from harness.measure.work import measure_work
from harness.paths import Kept, kept_dir
from harness.results import EpochResult, Event, Measurement, Note, Progress, RunSetup, Turn

__all__ = ["execute"]

LATENCY_BATCH_SIZES = (1, 32)
LATENCY = Rule(longest=1.5, least=10, warm_up=1.0)


def execute(task: Task, emit: Callable[[Event], None], stopping: Callable[[], bool] = lambda: False) -> None:
    """Train and evaluate one backbone, handing every result to ``emit`` as it happens.

    Args:
        task: the run.
        emit: called with each event; when it returns, what belongs into the database is there.
        stopping: tells whether somebody wants the run to stop.

    Raises:
        HarnessError: the run cannot be done as configured.
        Stopped: somebody wanted the run to stop.
    """

    def note(text: str) -> None:
        emit(Note(text))

    config = task.config
    device = resolve_device(config.device, config.precision, note)
    torch.use_deterministic_algorithms(config.deterministic)
    if device.type == "cpu" and task.jobs > 1:  # those beside it want cores too
        torch.set_num_threads(max(1, torch.get_num_threads() // task.jobs))
    backbone = registry.load(registry.find("backbone", config.backbone), Backbone)
    dataset = registry.load(registry.find("dataset", config.dataset), Dataset)
    options = dataset.Options.model_validate(config.data)
    splits = load_splits(dataset, config.dataset, options, config.limit_train, config.seed)
    if splits.fingerprint != task.fingerprint:
        raise DataError(f"the images of {config.dataset!r} have changed since this command began; start it again")
    module, weights = build(
        backbone,
        config.backbone,
        weights=config.weights,
        classes=len(splits.classes),
        auxiliary=any(stage.auxiliary_weight > 0 for stage in config.schedule.stages),
        seed=config.seed,
        note=note,
    )
    module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    environment = read_environment(device)
    machine = asdict(environment)
    machine["details"] = {name: value for name, value in machine["details"].items() if name != "git"}
    identity = {"config": config.hash, "weights": weights.sha256, "images": task.fingerprint, "environment": machine}
    checkpoints = Checkpoints(task.checkpoints, task.checkpoint_every, identity, stopping, note)
    stages = config.schedule.stages
    saved = _saved(checkpoints, task.recorded, stages)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    emit(RunSetup(environment, weights, parameters, resumed=saved is not None))

    arrays = {name: _decode(splits, name, backbone.input_size, emit) for name in splits.named()}
    decoded = {
        name: Split(
            torch.from_numpy(arrays[name]),
            torch.tensor([ref.label for ref in refs]),
            [ref.sha256 for ref in refs],
            partial(release, arrays[name]),
        )
        for name, refs in splits.named().items()
    }
    placed = move(decoded, device)
    place = placed["train"].images.device
    cache = None
    if device.type == "cpu":  # a GPU computes features faster than a disk keeps them
        cache = FeatureCache(kept_dir(Kept.FEATURES), json.dumps(machine, sort_keys=True), note)
    trainer = Trainer(
        module,
        backbone,
        _augment(config.schedule.transform, backbone, arrays["train"]),
        placed,
        config.seed,
        device,
        config.precision,
        emit,
        checkpoints,
        cache,
        {
            "images": _place(arrays.values()) if place.type == "cpu" else str(place),
            "images_bytes": sum(images.nbytes for images in arrays.values()),
            "jobs": task.jobs,
        },
    )
    start = None
    emit(Turn("train"))
    checkpoints.begin()
    for index, stage in enumerate(stages):
        if saved is not None and index < saved.position.stage:
            trainer.skip_stage(stage)
            continue
        if start is not None:
            trainer.load(start)
        reset_peaks(device)
        following = stages[index + 1] if index + 1 < len(stages) else None
        if saved is not None:
            recorded = [epoch for epoch in task.recorded if _is_before(epoch, stage, saved)]
            emit(Note(f"goes on from its checkpoint: {stage.name}, {len(recorded)} of {stage.epochs} epochs done"))
            start, saved = trainer.run_stage(stage, index, following, saved, recorded), None
        else:
            start = trainer.run_stage(stage, index, following)
        for name, peak in peaks(device).items():
            emit(Measurement(name, "B", np.array([peak], np.float64), environment.device_name, stage=stage.name))

    if not task.latency:
        return
    emit(Turn("measure"))
    for number, batch_size in enumerate(LATENCY_BATCH_SIZES):
        emit(Progress("latency", number, len(LATENCY_BATCH_SIZES)))
        call = inference(module, backbone, len(splits.classes), batch_size, device, config.precision)
        for one in measure_work(call, batch_size, environment.device_name):
            emit(one)
        emit(measure_latency(call, batch_size, device, environment.device_name, LATENCY))
    emit(Progress("latency", len(LATENCY_BATCH_SIZES), len(LATENCY_BATCH_SIZES)))


def _saved(checkpoints: Checkpoints, recorded: Sequence[EpochResult], stages: Sequence[Stage]) -> Saved | None:
    """Return the checkpoint, if the database has every epoch before it."""
    saved = checkpoints.load()
    if saved is None:
        return None
    stage = stages[saved.position.stage]
    known = [epoch.epoch for epoch in recorded if _is_before(epoch, stage, saved)]
    if known != list(range(1, saved.position.epoch)):
        checkpoints.note("the database does not hold the epochs before the checkpoint, so the run begins anew")
        return None
    return saved


def _is_before(epoch: EpochResult, stage: Stage, saved: Saved) -> bool:
    return epoch.stage == stage.name and epoch.epoch < saved.position.epoch


def _decode(splits: ImageSplits, name: str, size: int, emit: Callable[[Event], None]) -> NDArray[np.uint8]:
    return decode(
        splits,
        splits.named()[name],
        size,
        progress=lambda done, total: emit(Progress(f"decoding {name}", done, total)),
        note=lambda text: emit(Note(text)),
    )


def _place(arrays: Iterable[NDArray[np.uint8]]) -> str:
    return "page cache" if all(isinstance(images, np.memmap) for images in arrays) else "memory"


def _augment(transform: Transform, backbone: Backbone, train: NDArray[np.uint8]) -> Augment:
    mean: tuple[float, ...] = backbone.mean
    std: tuple[float, ...] = backbone.std
    if transform.normalize == "half":
        mean = std = (0.5, 0.5, 0.5)
    elif transform.normalize == "dataset":
        # exact, from the histogram of each channel's 256 values
        channels = train.shape[3]
        counts = np.zeros((channels, 256), dtype=np.int64)
        for image in train:
            counts += [np.bincount(image[..., channel].ravel(), minlength=256) for channel in range(channels)]
        values = np.arange(256) / 255
        means = counts @ values / counts.sum(axis=1)
        deviations = np.sqrt(counts @ values**2 / counts.sum(axis=1) - means**2)
        mean, std = (tuple(np.broadcast_to(x, 3).tolist()) for x in (means, deviations))
    return Augment(transform, backbone.input_size, mean, std, backbone.crop_pct)
