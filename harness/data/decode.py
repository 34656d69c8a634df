"""Images as one array: decoded and squashed once, then kept on disk as a memory map."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import PIL
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image

from harness import paths
from harness.api import ImageRef, ImageSplits
from harness.data.files import atomic_write
from harness.data.parallel import ordered_map
from harness.errors import DataError

__all__ = ["decode"]

_Shape = tuple[int, int, int, int]


def decode(
    splits: ImageSplits,
    refs: Sequence[ImageRef],
    size: int,
    progress: Callable[[int, int], None],
    note: Callable[[str], None],
) -> NDArray[np.uint8]:
    """Return the images squashed to ``size`` x ``size`` by Pillow's bilinear filter, the paper's first step.

    They are kept in the cache folder under a name made from their contents, the size and Pillow's version, and come
    back as a read-only memory map. Where that folder cannot be written they are held in memory.

    Args:
        splits: where the pixels are.
        refs: which images, in which order.
        size: pixels on a side; an image of that size is left as it is.
        progress: called with (done, total) while images are decoded.
        note: told what the user should know.

    Returns:
        uint8 (n, size, size, 1) for grey images, else (n, size, size, 3).

    Raises:
        DataError: an image cannot be read.
    """
    shape = (len(refs), size, size, 1 if splits.images.grey else 3)
    path = paths.cache_dir() / "decoded" / f"{_key(refs, shape)}.npy"
    cached = _open(path, shape)
    if cached is not None:
        return cached
    try:
        with atomic_write(path) as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            npy.write_array_header_1_0(file, header)
            for pixels in _pixels(splits, refs, shape, progress):
                file.write(pixels.data)
    except OSError as error:
        note(f"decoded images cannot be kept in {path.parent} ({error.strerror}); they are held in memory")
        images = np.empty(shape, np.uint8)
        for index, pixels in enumerate(_pixels(splits, refs, shape, progress)):
            images[index] = pixels
        return images
    cached = _open(path, shape)
    if cached is None:
        raise DataError(f"{path} was written, but cannot be read again")
    return cached


def _key(refs: Sequence[ImageRef], shape: _Shape) -> str:
    digest = hashlib.sha256(f"1 pillow {PIL.__version__} {shape}".encode())
    for ref in refs:
        digest.update(ref.sha256.encode())
    return digest.hexdigest()


def _open(path: Path, shape: _Shape) -> NDArray[np.uint8] | None:
    """Return the memory map, or None where there is none that is whole."""
    try:
        images: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return images if images.shape == shape and images.dtype == np.uint8 else None


def _pixels(
    splits: ImageSplits, refs: Sequence[ImageRef], shape: _Shape, progress: Callable[[int, int], None]
) -> Iterator[NDArray[np.uint8]]:
    """Yield uint8 (size, size, channels) for each image."""
    total, size, _, channels = shape

    def convert(item: tuple[ImageRef, Image.Image]) -> NDArray[np.uint8]:
        ref, image = item
        if image.mode not in ("L", "RGB"):
            raise DataError(f"{ref.id} is of mode {image.mode}; a data set's images are read in mode L or RGB")
        try:
            if channels == 1:
                image = image.getchannel(0)
            elif image.mode == "L":
                image = image.convert("RGB")
            if image.size != (size, size):
                image = image.resize((size, size), Image.Resampling.BILINEAR)
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"{ref.id} cannot be decoded: {error}") from error
        return np.asarray(image, dtype=np.uint8).reshape(size, size, channels)

    images = zip(refs, splits.images.read([ref.id for ref in refs]), strict=True)
    try:
        for done, pixels in enumerate(ordered_map(convert, images), 1):
            yield pixels
            progress(done, total)
    except OSError as error:  # of the source; a reader's own errors do not come this way
        raise DataError(f"the images cannot be read: {error}") from error
