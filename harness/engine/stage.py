"""One stage of training: epochs of batches, validation after each, and the tested epoch's predictions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.optim.lr_scheduler import CyclicLR, LRScheduler

from harness import api
from harness.api import Backbone, Stage
from harness.config import Precision
from harness.data.augment import Augment, Draws
from harness.engine.checkpoint import Checkpoints, Position, Saved, digest, optimizer_tensors, restore_optimizer
from harness.engine.device import autocast
from harness.engine.model import prepare, set_train_mode
from harness.engine.seeds import generator, seed_for
from harness.errors import BrokenPluginError, Stopped, TrainingError
from harness.measure.clock import now, synchronize
from harness.results import EpochResult, Event, Prediction, Progress, StageResult, StageStarted

__all__ = ["Split", "Trainer", "forward"]

State = dict[str, Tensor]


@dataclass(frozen=True)
class Split:
    """Decoded images uint8 (n, size, size, 1 or 3) and their labels int64 (n,)."""

    images: NDArray[np.uint8]
    labels: Tensor

    def batch(self, indices: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return images (b, channels, size, size) and labels (b,) of ``indices`` on the device."""
        images = torch.from_numpy(self.images[indices.numpy()]).permute(0, 3, 1, 2)
        return images.to(device), self.labels[indices].to(device)


def forward(
    module: nn.Module, backbone: Backbone, images: Tensor, precision: Precision
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run the network on float images (n, 3, s, s): float32 logits (n, classes), and those of auxiliary heads.

    Raises:
        BrokenPluginError: the backbone gives logits of another shape than its head.
    """
    with autocast(images.device, precision):
        logits, auxiliary = backbone.logits(module(images))
    expected = (len(images), module.get_submodule(backbone.head).out_features)
    if logits.shape != expected:
        raise BrokenPluginError(f"the backbone gives logits of shape {tuple(logits.shape)}; expected {expected}")
    return logits.float(), tuple(other.float() for other in auxiliary)


@dataclass(frozen=True)
class _Shown:
    """What an epoch shows: image ``items[i]`` with the crop and flip ``draws[i]``, for each i of ``order``."""

    items: Tensor
    draws: Draws
    order: Tensor


@dataclass
class _Work:
    """A stage in progress."""

    stage: Stage
    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler | None
    class_weights: Tensor | None
    position: Position
    best: State | None = None
    saved: Saved | None = None


@dataclass(frozen=True)
class Trainer:
    """One network on one data set. :meth:`run_stage` may be called for stage after stage."""

    module: nn.Module
    backbone: Backbone
    augment: Augment
    splits: dict[str, Split]
    seed: int
    device: torch.device
    precision: Precision
    emit: Callable[[Event], None]
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    _trained: set[int] = field(default_factory=set)

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
            BrokenPluginError: the backbone's logits do not fit the classes.
            Stopped: somebody wanted the run to stop; the checkpoint says where it stood.
        """
        wanted = following.start_from if following else stage.checkpoint
        parameters = prepare(self.module, self.backbone, stage)
        self._trained.update(map(id, parameters))
        trainable = sum(parameter.numel() for parameter in parameters)
        self.emit(StageStarted(stage.name, index, stage.epochs, trainable))
        optimizer = _optimizer(stage, parameters)
        work = _Work(stage, optimizer, _scheduler(stage, optimizer), self._class_weights(stage), Position(index))
        if saved is not None:
            self._restore(work, saved)

        epochs = list(recorded)
        while work.position.epoch <= stage.epochs:
            result = self._epoch(work)
            epochs.append(result)
            self.emit(result)
            if "best" in (stage.checkpoint, wanted) and _best(epochs) is result:
                work.best = _copy(self.module)
            work.position = Position(index, result.epoch + 1)
            self._pause(work)
        begin = now()
        tested = epochs[-1]
        start = work.best
        if stage.checkpoint == "best" and work.best is not None:
            tested = _best(epochs)
            start = _copy(self.module) if wanted == "last" else None
            self.module.load_state_dict(work.best)
        predictions = tuple(Prediction(name, self.predict(name, stage.name)) for name in ("val", "test"))
        self.emit(
            StageResult(
                stage=stage.name,
                tested_epoch=tested.epoch,
                seconds=sum(epoch.seconds for epoch in epochs) + now() - begin,
                images_per_second=median(epoch.images_per_second for epoch in epochs),
                predictions=predictions,
                weights_sha256=digest(self.module.state_dict()),
                optimizer_sha256=digest(*optimizer_tensors(work.optimizer)),
            )
        )
        return start if wanted != stage.checkpoint else None

    def _pause(self, work: _Work) -> None:
        """Between two batches: write a checkpoint if it is time to, and stop if somebody wants that."""
        stop = self.checkpoints.stopping()
        if stop or self.checkpoints.due():
            tensors, plain = self._state(work)
            self.checkpoints.save(work.position, plain, tensors)
        if stop:
            raise Stopped

    def _state(self, work: _Work) -> tuple[dict[str, Tensor], dict[str, Any]]:
        optimizer, plain = optimizer_tensors(work.optimizer)
        moved = self._moved()
        groups = {
            "module": {name: value for name, value in self.module.state_dict().items() if name in moved},
            "best": {name: value for name, value in (work.best or {}).items() if name in moved},
            "optimizer": optimizer,
        }
        if work.position.batch:  # in the middle of an epoch
            groups["random"] = {"cpu": torch.get_rng_state()}
            if self.device.type == "cuda":
                groups["random"]["cuda"] = torch.cuda.get_rng_state(self.device)
        tensors = {f"{group}/{name}": value for group, values in groups.items() for name, value in values.items()}
        scheduler = work.scheduler.state_dict() if work.scheduler else None
        return tensors, {"optimizer": plain, "scheduler": scheduler, "best": work.best is not None}

    def _moved(self) -> set[str]:
        """Name what training may have changed: all buffers, and the parameters that some stage has trained."""
        return {
            name
            for name, value in self.module.state_dict(keep_vars=True).items()
            if not isinstance(value, nn.Parameter) or id(value) in self._trained
        }

    def _restore(self, work: _Work, saved: Saved) -> None:
        groups: dict[str, State] = {"module": {}, "best": {}, "optimizer": {}, "random": {}}
        for key, value in saved.tensors.items():
            group, _, name = key.partition("/")
            groups[group][name] = value
        state = self.module.state_dict()
        for name, value in groups["module"].items():
            state[name].copy_(value)
        if saved.plain["best"]:
            work.best = _copy(self.module)
            for name, value in groups["best"].items():
                work.best[name].copy_(value)
        restore_optimizer(work.optimizer, groups["optimizer"], saved.plain["optimizer"])
        if work.scheduler is not None:
            work.scheduler.load_state_dict(saved.plain["scheduler"])
            # Steps of the process before count: the rule would warn that it is stepped before its optimiser.
            work.optimizer._opt_called = True  # type: ignore[attr-defined]
        work.position = saved.position
        if groups["random"]:
            work.saved = Saved(saved.position, {}, groups["random"])

    def predict(self, split: str, stage: str, batch_size: int = 32) -> NDArray[np.float32]:
        """Return logits (n, classes) of a split, in its order, in eval mode."""
        images = self.splits[split]
        self.module.eval()
        rows = []
        with torch.inference_mode():
            order = torch.arange(len(images.labels))
            for done, indices in _counted(order.split(batch_size)):
                batch, _ = images.batch(indices, self.device)
                logits, _ = forward(self.module, self.backbone, self.augment.evaluate(batch), self.precision)
                rows.append(logits.cpu())
                self.emit(Progress(f"{stage}: {split}", done, len(order)))
        predicted = torch.cat(rows)
        if not predicted.isfinite().all():
            raise _diverged(stage, f"its predictions of {split} are not finite")
        return predicted.numpy()

    def _epoch(self, work: _Work) -> EpochResult:
        stage, position, optimizer, scheduler = work.stage, work.position, work.optimizer, work.scheduler
        epoch = position.epoch
        begin = now() - position.seconds
        shown = self._show(stage, epoch)
        # Dropout and gradient-time draws of the network come from torch's own generators.
        torch.manual_seed(seed_for(self.seed, stage.name, "network", epoch))
        if work.saved is not None:
            self._restore_random(work.saved.tensors)
            work.saved = None
        set_train_mode(self.module, stage)
        batches = shown.order.split(stage.batch_size)
        n = len(shown.order)
        for number, rows in enumerate(batches[position.batch :], position.batch + 1):
            images, labels = self.splits["train"].batch(shown.items[rows], self.device)
            inputs = self.augment.train(images, shown.draws[rows])
            logits, auxiliary = forward(self.module, self.backbone, inputs, self.precision)
            loss = F.cross_entropy(logits, labels, weight=work.class_weights)
            total = loss
            for other in auxiliary:
                total = total + stage.auxiliary_weight * F.cross_entropy(other, labels, weight=work.class_weights)
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            optimizer.step()
            if scheduler is not None and (stage.lr.kind == "cyclic" and stage.lr.step_every == "batch"):
                scheduler.step()
            done = min(number * stage.batch_size, n)
            position.batch = number
            position.loss_sum += float(loss.detach()) * len(rows)
            position.correct += int((logits.argmax(dim=1) == labels).sum())
            position.seconds = now() - begin
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
            paused = now()
            self._pause(work)
            begin += now() - paused  # writing a checkpoint is not training
        synchronize(self.device)
        if not math.isfinite(position.loss_sum):
            raise _diverged(stage.name, f"the loss of epoch {epoch} is {position.loss_sum}")
        speed = n / (now() - begin)
        if scheduler is not None and (stage.lr.kind == "cyclic" and stage.lr.step_every == "epoch"):
            scheduler.step()
        logits_val = torch.from_numpy(self.predict("val", stage.name))
        labels_val = self.splits["val"].labels
        return EpochResult(
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

    def _restore_random(self, states: State) -> None:
        torch.set_rng_state(states["cpu"])
        if "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"], self.device)

    def _show(self, stage: Stage, epoch: int) -> _Shown:
        """Decide, from seed, stage and epoch alone, what the epoch shows and in which order."""
        labels = self.splits["train"].labels
        n = len(labels)
        shuffle = generator(self.seed, stage.name, "order", epoch)
        if stage.class_weights == "sampler":
            rarity = 1.0 / torch.bincount(labels).double()
            items, order = torch.multinomial(rarity[labels], n, replacement=True, generator=shuffle), torch.arange(n)
        else:
            items, order = torch.arange(n), torch.randperm(n, generator=shuffle)
        return _Shown(items, self.augment.draw(n, generator(self.seed, stage.name, "augment", epoch)), order)

    def _class_weights(self, stage: Stage) -> Tensor | None:
        if stage.class_weights != "inverse":
            return None
        counts = torch.bincount(self.splits["train"].labels).float()
        return (counts.sum() / (len(counts) * counts)).to(self.device)


def _diverged(stage: str, what: str) -> TrainingError:
    return TrainingError(f"training diverged in {stage}: {what}; lower the learning rate (--set {stage}.lr...)")


def _optimizer(stage: Stage, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    options = stage.optimizer
    if isinstance(options, api.SGD):
        return torch.optim.SGD(
            parameters, lr=stage.lr.base, momentum=options.momentum, weight_decay=options.weight_decay
        )
    return torch.optim.Adam(parameters, lr=stage.lr.base, weight_decay=options.weight_decay)


def _scheduler(stage: Stage, optimizer: torch.optim.Optimizer) -> LRScheduler | None:
    rule = stage.lr
    if isinstance(rule, api.ConstantLR):
        return None
    high = stage.optimizer.momentum if isinstance(stage.optimizer, api.SGD) else 0.0
    return CyclicLR(
        optimizer,
        base_lr=rule.base,
        max_lr=rule.max,
        step_size_up=rule.step_size_up,
        mode=rule.mode,
        cycle_momentum=rule.cycle_momentum,
        base_momentum=rule.low_momentum,
        max_momentum=high,
    )


def _best(epochs: list[EpochResult]) -> EpochResult:
    """Highest validation accuracy; among equals the lowest validation loss, then the earliest."""
    return max(epochs, key=lambda epoch: (epoch.val_accuracy, -epoch.val_loss, -epoch.epoch))


def _copy(module: nn.Module) -> State:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def _counted(batches: tuple[Tensor, ...]) -> Iterator[tuple[int, Tensor]]:
    done = 0
    for batch in batches:
        done += len(batch)
        yield done, batch
