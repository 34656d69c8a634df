"""Where a run stands, on disk, so that another process can go on as if nothing had happened.

A run has a folder with two files: ``state.json``, and the tensors that it names, as safetensors. Nothing in them is
executed when they are read. ``state.json`` is replaced last and at once, so that a kill at any moment leaves the state
before or the state after.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from harness.data.files import file_sha256
from harness.measure.clock import now
from harness.paths import is_checkpoint, surplus

__all__ = ["Checkpoints", "Position", "Saved", "digest", "optimizer_tensors", "restore_optimizer"]

_FORMAT = 1
_STATE = "state.json"
_LIMIT_BYTES = 20 * 2**30


@dataclass
class Position:
    """Where a stage stands: ``batch`` batches of ``epoch`` are done, with these sums over them."""

    stage: int
    epoch: int = 1
    batch: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Saved:
    """A checkpoint: ``plain`` holds what is no tensor."""

    position: Position
    plain: dict[str, Any]
    tensors: dict[str, Tensor]


@dataclass
class Checkpoints:
    """The checkpoint of one run, and whether it is time to write it.

    Args:
        folder: of this run alone; None keeps no checkpoint.
        every: seconds between two.
        identity: what must be equal for a checkpoint to be gone on from; JSON.
        stopping: tells whether somebody wants the run to stop.
        note: told, once, where no checkpoint can be written.
    """

    folder: Path | None = None
    every: float = 60.0
    identity: Mapping[str, Any] = field(default_factory=dict)
    stopping: Callable[[], bool] = lambda: False
    note: Callable[[str], None] = lambda _text: None
    _written: float = field(default_factory=now)
    _failed: bool = False

    def begin(self) -> None:
        """Count from now until the first one."""
        self._written = now()

    def due(self) -> bool:
        """Tell whether a checkpoint should be written now."""
        return self.folder is not None and now() - self._written >= self.every

    def save(self, position: Position, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Replace the checkpoint. Where that fails, the one before stays, and the run goes on."""
        if self.folder is None:
            return
        try:
            self._save(self.folder, position, plain, tensors)
        except (OSError, SafetensorError) as error:
            with suppress(OSError):
                for partial in self.folder.glob(".*.partial"):
                    partial.unlink()
            if not self._failed:
                self.note(
                    f"no checkpoint can be written in {self.folder}: {error}; while that is so, an interrupt loses work"
                )
            self._failed = True
        self._written = now()

    def _save(self, folder: Path, position: Position, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        _make_room(folder, sum(tensor.nbytes for tensor in tensors.values()))
        name = f"{position.stage}-{position.epoch}-{position.batch}.safetensors"
        partial = folder / f".{name}.partial"
        # Each in memory of its own: safetensors refuses tensors that share it.
        save_file({key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}, partial)
        _to_disk(partial)
        partial.replace(folder / name)
        state = {
            "format": _FORMAT,
            "identity": self.identity,
            "position": asdict(position),
            "plain": plain,
            "tensors": {"file": name, "sha256": file_sha256(folder / name)},
        }
        partial = folder / f".{_STATE}.partial"
        partial.write_text(json.dumps(state), encoding="utf-8")
        _to_disk(partial)
        partial.replace(folder / _STATE)
        for other in folder.iterdir():
            if other.name not in (_STATE, name):
                other.unlink()

    def load(self) -> Saved | None:
        """Return the checkpoint; None where there is none that this run can go on from, which it says."""
        if self.folder is None or not (self.folder / _STATE).is_file():
            return None
        try:
            state = json.loads((self.folder / _STATE).read_text(encoding="utf-8"))
            if state["format"] != _FORMAT or state["identity"] != json.loads(json.dumps(self.identity)):
                self.note("its checkpoint is of other software, weights or another device, so the run begins anew")
                return None
            path = self.folder / Path(state["tensors"]["file"]).name
            if file_sha256(path) != state["tensors"]["sha256"]:
                raise ValueError("its tensors do not have the hash that was noted")
            return Saved(Position(**state["position"]), state["plain"], load_file(path))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            self.note(f"the checkpoint in {self.folder} cannot be read ({error}), so the run begins anew")
            return None


def _make_room(folder: Path, needed: int) -> None:
    """Remove other runs' checkpoints, those left longest first, until all together stay within the limit."""
    found = []
    for other in folder.parent.iterdir():
        if other != folder and is_checkpoint(other):
            with suppress(FileNotFoundError):  # its run goes on, or ends, meanwhile
                found.append((other.stat().st_mtime, sum(file.stat().st_size for file in other.iterdir()), other))
    for other in surplus({other: size for _, size, other in sorted(found)}, _LIMIT_BYTES - 2 * needed):
        shutil.rmtree(other, ignore_errors=True)


def _to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def digest(tensors: Mapping[str, Tensor], plain: Any = None) -> str:
    """Return the sha256 of tensors' names, types, shapes and bytes, and of what is no tensor."""
    found = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimiser's state into tensors and the rest, which is JSON."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    plain: dict[str, dict[str, Any]] = {}
    for index, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value
            else:
                plain.setdefault(str(index), {})[name] = value
    return tensors, {"state": plain, "param_groups": state["param_groups"]}


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]
) -> None:
    """Undo :func:`optimizer_tensors`. State of a parameter's shape takes its layout in memory too."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {int(index): dict(entries) for index, entries in plain["state"].items()}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        parameter = parameters[int(number)]
        like = value.shape == parameter.shape
        state.setdefault(int(number), {})[name] = (
            torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value) if like else value
        )
    optimizer.load_state_dict({"state": state, "param_groups": plain["param_groups"]})
