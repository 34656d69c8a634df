"""What frozen layers make of images: computed once, in large batches, for all heads that train on it."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from harness.config import Precision
from harness.data import augment
from harness.data.augment import Augment, Draws, View
from harness.data.files import atomic_write
from harness.engine import cut, forms, layers
from harness.engine.batches import BatchSize, Split
from harness.engine.device import autocast
from harness.measure.clock import now, synchronize
from harness.paths import sizes, surplus

__all__ = ["FeatureCache", "Features", "source"]

_CHUNK = 1024  # images in a file
_LIMIT_BYTES = 10 * 2**30
_CODE = [str(module.__file__) for module in (augment, cut, forms, layers)]

Rows = tuple[Tensor, ...]


@dataclass
class Features:
    """Computes what a network's frozen layers make of images.

    Args:
        trunk: those layers, as :class:`harness.engine.forms.InferenceForms` makes them.
        augment: what comes before them.
        device: where they are.
        precision: in which they compute.
        batch_size: how many images at a time.
        cache: where features are kept for other runs.
        key: of the layers: their code and weights.
        note: told what the user should know.
    """

    trunk: Callable[[Tensor], Rows]
    augment: Augment
    device: torch.device
    precision: Precision
    batch_size: BatchSize
    cache: FeatureCache | None
    key: str
    note: Callable[[str], None]
    computed: int = 0
    taken: int = 0
    taken_seconds: float = 0.0
    _trusted: bool | None = None

    def rows(
        self, split: Split, items: Tensor, how: Draws | View, watch: Callable[[int], None] = lambda _done: None
    ) -> Rows:
        """Return the features of images, one row each.

        Args:
            split: the images.
            items: which of them, int64 (n,).
            how: each is cropped and flipped.
            watch: called between batches with the number of images done.
        """
        made: list[Tensor] = []
        for begin in range(0, len(items), _CHUNK):
            part = slice(begin, begin + _CHUNK)

            def tell(done: int, before: int = begin) -> None:
                watch(before + done)

            chunk = self._chunk(split, items[part], _of(how, part), tell)
            if not made:
                made = [feature.new_empty((len(items), *feature.shape[1:])) for feature in chunk]
            for whole, feature in zip(made, chunk, strict=True):
                whole[part] = feature
        return tuple(made)

    def _chunk(self, split: Split, items: Tensor, how: Draws | View, watch: Callable[[int], None]) -> Rows:
        if self.cache is None or not split.hashes:
            self.computed += len(items)
            return self._compute(split, items, how, watch)
        key, size = self._name(split, items, how), self.batch_size.size
        found = None if self._trusted is False else self.cache.get(key)
        if found is not None and self._trust(found[0], split, items, how):
            self.taken += len(items)
            self.taken_seconds += found[1]
            watch(len(items))
            return tuple(feature.to(self.device) for feature in found[0])
        begin = now()
        rows = self._compute(split, items, how, watch)
        synchronize(self.device)
        self.computed += len(items)
        if self.batch_size.size == size:  # other batches may be rounded otherwise
            self.cache.put(key, rows, now() - begin)
        return rows

    def _compute(self, split: Split, items: Tensor, how: Draws | View, watch: Callable[[int], None]) -> Rows:
        def compute(part: slice) -> Rows:
            crops = self.augment.crop(split.batch(items[part], self.device), _of(how, part))
            with autocast(self.device, self.precision):
                return self.trunk(crops)

        batches = []
        with torch.no_grad():
            for done, rows in self.batch_size.over(len(items), compute):
                batches.append(rows)
                watch(done)
        return tuple(torch.cat(parts) for parts in zip(*batches, strict=True))

    def _trust(self, rows: Rows, split: Split, items: Tensor, how: Draws | View) -> bool:
        """Compare the first features that are taken with what the layers give: not all code of a plugin is hashed."""
        if self._trusted is None:
            n = self.batch_size.size
            again = self._compute(split, items[:n], _of(how, slice(0, n)), lambda _done: None)
            self._trusted = all(torch.equal(a.cpu(), b[:n]) for a, b in zip(again, rows, strict=True))
            if not self._trusted:
                self.note("features that another run kept are not those of this network, and are computed again")
        return self._trusted

    def _name(self, split: Split, items: Tensor, how: Draws | View) -> str:
        found = hashlib.sha256(self.key.encode())
        for item in items.tolist():
            found.update(split.hashes[item].encode())
        for values in (how.boxes, how.flips) if isinstance(how, Draws) else ():
            found.update(b"-" if values is None else values.numpy().tobytes())
        augment = self.augment
        view = (augment.transform.evaluate, how) if isinstance(how, View) else "as drawn"
        found.update(
            repr((view, augment.size, augment.mean, augment.std, augment.crop_pct, self.batch_size.size)).encode()
        )
        return found.hexdigest()


def _of(how: Draws | View, rows: slice) -> Draws | View:
    return how if isinstance(how, View) else how[rows]


def source(module: nn.Module) -> str:
    """Return the hash of the code that the layers of a network are written in, and of what makes forms of them."""
    files = {*_CODE}
    for kind in {type(layer) for layer in module.modules()}:
        with suppress(TypeError, OSError):  # typed at a prompt, it has no file
            files.add(inspect.getfile(kind))
    found = hashlib.sha256()
    for path in map(Path, sorted(files)):
        found.update(path.read_bytes() if path.is_file() else b"-")
    return found.hexdigest()


@dataclass
class FeatureCache:
    """Features on disk, by what they were made from: another run with the same frozen layers and images takes them.

    Args:
        folder: where they are; those used longest ago make room for new ones.
        identity: of everything that features depend on beside layers, images and draws: machine and versions.
        note: told, once, where nothing can be kept.
    """

    folder: Path
    identity: str
    note: Callable[[str], None]
    _usable: bool = True

    def get(self, key: str) -> tuple[Rows, float] | None:
        """Return features and the seconds that they took to compute, or None where they are not there, or not whole."""
        path = self._path(key)
        if not self._usable or not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as file:
                rows = tuple(file.get_tensor(str(index)) for index in range(len(file.keys())))
                about = json.loads(file.metadata()["about"])
            if about["crc32"] != _crc32(rows):
                return None
            with suppress(OSError):  # in a folder that cannot be written, or deleted meanwhile
                os.utime(path)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            return None
        return rows, float(about["seconds"])

    def put(self, key: str, rows: Rows, seconds: float) -> None:
        """Keep features. Where that fails, nothing more is kept."""
        if not self._usable:
            return
        tensors = {str(index): feature.cpu().contiguous() for index, feature in enumerate(rows)}
        about = json.dumps({"crc32": _crc32(tuple(tensors.values())), "seconds": seconds})
        path = self._path(key)
        try:
            self._make_room(sum(tensor.nbytes for tensor in tensors.values()))
            with atomic_write(path) as file:
                file.write(save(tensors, {"about": about}))
        except (OSError, SafetensorError) as error:
            self._usable = False
            self.note(f"features cannot be kept in {self.folder} ({error}); other runs compute them again")

    def _path(self, key: str) -> Path:
        return self.folder / f"{hashlib.sha256(f'{self.identity} {key}'.encode()).hexdigest()}.safetensors"

    def _make_room(self, needed: int) -> None:
        for path in surplus(sizes(self.folder), _LIMIT_BYTES - needed):
            path.unlink(missing_ok=True)


def _crc32(rows: Rows) -> int:
    found = 0
    for feature in rows:
        found = zlib.crc32(feature.reshape(-1).view(torch.uint8).numpy().data, found)
    return found
