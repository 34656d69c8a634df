"""Generated radiographs: no files, no patients, the same pixels on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from harness.api import Dataset, DatasetOptions, ImageRef, ImageSplits
from harness.errors import DataError

__all__ = ["Phantom", "draw"]

CLASSES = ("normal", "opacity")
SIZE = 224

_Plane = NDArray[np.float32]


class PhantomOptions(DatasetOptions):
    """How many images of each split are generated."""

    train: int = Field(192, ge=8, le=10_000, description="training images")
    val: int = Field(64, ge=8, le=10_000, description="validation images")
    test: int = Field(128, ge=8, le=10_000, description="test images")
    seed: int = Field(0, ge=0, description="seed of every image")


class Phantom(Dataset):
    """Chests drawn from simple shapes: clear lungs, or lungs with blurred bright patches. One to three of a patient."""

    Options: ClassVar[type[DatasetOptions]] = PhantomOptions
    synthetic = True

    def load(self, name: str, options: DatasetOptions) -> ImageSplits:
        """Return the splits; every image is drawn, for its hash."""
        del name
        assert isinstance(options, PhantomOptions)  # noqa: S101
        sizes = {"train": options.train, "val": options.val, "test": options.test}
        images = _Drawn(options.seed)
        splits = {split: tuple(_refs(split, sizes[split], options.seed, images)) for split in sizes}
        return ImageSplits(CLASSES, **splits, images=images)


class _Drawn:
    """Draws what is asked for: an image is a function of the seed and its id."""

    grey = True

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._pixels: dict[str, NDArray[np.uint8]] = {}

    def pixels(self, id_: str) -> NDArray[np.uint8]:
        if id_ not in self._pixels:
            self._pixels[id_] = draw(id_, self._seed)
        return self._pixels[id_]

    def read(self, ids: Sequence[str]) -> Iterator[Image.Image]:
        for id_ in ids:
            yield Image.fromarray(self.pixels(id_))


def _refs(split: str, n: int, seed: int, images: _Drawn) -> Iterator[ImageRef]:
    drawn = patient = 0
    while drawn < n:
        group = f"{split}-{patient:04d}"
        label = patient % 2
        for number in range(min(1 + int(_rng(seed, group).integers(3)), n - drawn)):
            id_ = f"{group}-{number}-{CLASSES[label]}"
            yield ImageRef(id_, label, group, hashlib.sha256(images.pixels(id_).tobytes()).hexdigest())
            drawn += 1
        patient += 1


# --- drawing ---------------------------------------------------------------------------------------------------------
# Only + - * / and comparisons, which IEEE 754 rounds alike everywhere: no exp, no power, no matrix product.


def draw(id_: str, seed: int) -> NDArray[np.uint8]:
    """Draw one image, uint8 (224, 224), from an id such as ``train-0007-1-opacity``.

    Raises:
        DataError: the id does not say what to draw.
    """
    group, _, class_name = id_.rsplit("-", 2) if id_.count("-") == 3 else ("", "", "")
    if class_name not in CLASSES:
        raise DataError(f"the phantom has no image {id_!r}")
    body, rng = _rng(seed, group), _rng(seed, id_)
    y, x = _grid()
    # the patient's build, and how this image was taken
    wide, tall, lean, heart_size = body.uniform(-1, 1, 4)
    y = y - np.float32(rng.uniform(-0.05, 0.05))
    x = x - np.float32(rng.uniform(-0.05, 0.05)) - np.float32(0.06 * rng.uniform(-1, 1)) * y

    trunk = _soft(1.0 - _ellipse(y, x, 0.35, 0.0, 1.35, 0.86 + 0.06 * wide), 0.25)
    lungs = [
        _soft(1.0 - _ellipse(y, x, -0.02 + 0.04 * lean, side * (0.40 + 0.03 * wide), 0.62 + 0.06 * tall, 0.28), 0.35)
        for side in (-1.0, 1.0)
    ]
    air = np.maximum(*lungs)
    heart = _soft(1.0 - _ellipse(y, x, 0.28, 0.10, 0.34 + 0.04 * heart_size, 0.26 + 0.05 * heart_size), 0.5)
    spine = _soft(np.float32(1) - np.abs(x) / np.float32(0.16), 0.8)
    phase = (y + np.float32(0.35) * x * x) * np.float32(5.0 + 0.4 * tall) + np.float32(body.uniform())
    ribs = _soft(np.float32(0.5) - np.abs(phase - np.floor(phase) - np.float32(0.5)) * np.float32(2.2), 0.5)
    clavicles = _soft(
        np.float32(1) - np.abs(y + np.float32(0.62) - np.float32(0.25) * np.abs(x)) / np.float32(0.05), 1.0
    )

    tissue = trunk * np.float32(0.62) - air * np.float32(0.40 + 0.05 * rng.uniform(-1, 1))
    tissue += spine * trunk * np.float32(0.20) + np.maximum(heart - air * np.float32(0.35), 0) * np.float32(0.22)
    tissue += ribs * trunk * np.float32(0.07 + 0.02 * rng.uniform(-1, 1)) + clavicles * trunk * np.float32(0.06)
    # vessels and soft tissue: clouds that every lung has, and that hide a faint patch
    tissue += air * (_clouds(rng, 14) * np.float32(0.08) + _clouds(rng, 28) * np.float32(0.05))
    if class_name == "opacity":
        tissue += _patches(rng, y, x, lungs)

    gain, offset, bend = rng.uniform(0.85, 1.15), rng.uniform(-0.05, 0.08), rng.uniform(-0.35, 0.35)
    values = np.clip(tissue * np.float32(gain) + np.float32(offset + 0.08), 0, 1)
    values += np.float32(bend) * values * (1 - values)
    grain = rng.random((2, SIZE, SIZE), dtype=np.float32)
    values += (grain[0] - grain[1]) * np.float32(rng.uniform(0.03, 0.08))
    return (np.clip(values, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)


def _patches(rng: np.random.Generator, y: _Plane, x: _Plane, lungs: list[_Plane]) -> _Plane:
    """Return one to three blurred patches inside one lung."""
    side = int(rng.integers(2))
    total = np.zeros((SIZE, SIZE), np.float32)
    for _ in range(1 + int(rng.integers(3))):
        top, across = rng.uniform(-0.40, 0.35), (2 * side - 1) * 0.40 + rng.uniform(-0.12, 0.12)
        radius = rng.uniform(0.08, 0.20)
        distance = _ellipse(y, x, top, across, radius, radius * rng.uniform(0.7, 1.3))
        total += np.float32(rng.uniform(0.18, 0.50)) / ((1 + distance) * (1 + distance))
    return total * lungs[side]


def _rng(seed: int, name: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))


@cache
def _grid() -> tuple[_Plane, _Plane]:
    """Return y and x from -1 to 1, each (224, 224)."""
    axis = (np.arange(SIZE, dtype=np.float32) * 2 + 1 - SIZE) / np.float32(SIZE)
    return np.repeat(axis[:, None], SIZE, axis=1), np.repeat(axis[None, :], SIZE, axis=0)


def _ellipse(y: _Plane, x: _Plane, top: float, across: float, tall: float, wide: float) -> _Plane:
    """Return the squared distance from a centre, 1 on the ellipse's edge."""
    down, right = (y - np.float32(top)) / np.float32(tall), (x - np.float32(across)) / np.float32(wide)
    return np.asarray(down * down + right * right, np.float32)


def _soft(values: NDArray[np.floating[Any]], width: float) -> _Plane:
    """Rise smoothly from 0 to 1 where ``values`` go from 0 to ``width``."""
    t = np.clip(values / np.float32(width), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


def _clouds(rng: np.random.Generator, cells: int) -> _Plane:
    """Return smooth noise from -1 to 1 that changes about ``cells`` times across."""
    knots = rng.random((cells + 2, cells + 2), dtype=np.float32) * 2 - 1
    place = np.arange(SIZE, dtype=np.float32) * np.float32(cells) / np.float32(SIZE)
    low = place.astype(np.intp)
    t = place - low
    t = t * t * (3 - 2 * t)
    rows = knots[low] * (1 - t)[:, None] + knots[low + 1] * t[:, None]
    return np.asarray(rows[:, low] * (1 - t)[None, :] + rows[:, low + 1] * t[None, :], np.float32)
