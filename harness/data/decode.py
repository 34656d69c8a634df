"""Images as one array: decoded and squashed once, then kept on disk as a memory map."""

from __future__ import annotations

import hashlib
import mmap
import zlib
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

__all__ = ["decode", "release"]

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
    back as a memory map (copy-on-write: what is written to it reaches no file). Each image's checksum is kept behind
    them; where one is wrong all are decoded again. Where the folder cannot be written they are held in memory.

    Args:
        splits: where the pixels are.
        refs: which images, in which order.
        size: pixels on a side; an image of that size is left as it is.
        progress: called with (done, total) while images are decoded.
        note: told what the user should know.

    Returns:
        uint8 (n, size, size, 1) for grey images, else (n, size, size, 3): a ``numpy.memmap``, or an array.

    Raises:
        DataError: an image cannot be read.
    """
    shape = (len(refs), size, size, 1 if splits.images.grey else 3)
    path = paths.kept_dir(paths.Kept.DECODED) / f"{_key(refs, shape)}.npy"
    cached = _open(path, shape)
    if cached is not None:
        return cached
    if path.exists():
        note(f"{path} is damaged; its images are decoded again")
    why = "what was written there cannot be read again"
    try:
        with atomic_write(path) as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            npy.write_array_header_1_0(file, header)
            checksums = []
            for pixels in _pixels(splits, refs, shape, progress):
                file.write(pixels.data)
                checksums.append(zlib.crc32(pixels.data))
            np.save(file, np.array(checksums, np.uint32))
        cached = _open(path, shape)
        if cached is not None:
            return cached
    except OSError as error:
        why = str(error.strerror)
    note(f"decoded images cannot be kept in {path.parent} ({why}); they are held in memory")
    images = np.empty(shape, np.uint8)
    for index, pixels in enumerate(_pixels(splits, refs, shape, progress)):
        images[index] = pixels
    return images


def _key(refs: Sequence[ImageRef], shape: _Shape) -> str:
    digest = hashlib.sha256(f"2 pillow {PIL.__version__} {shape}".encode())
    for ref in refs:
        digest.update(ref.sha256.encode())
    return digest.hexdigest()


def _open(path: Path, shape: _Shape) -> NDArray[np.uint8] | None:
    """Return the memory map, or None where there is none that is whole."""
    try:
        images: NDArray[np.uint8] = np.load(path, mmap_mode="c", allow_pickle=False)
        if images.shape != shape or images.dtype != np.uint8 or not isinstance(images, np.memmap):
            return None
        with path.open("rb") as file:
            file.seek(images.offset + images.nbytes)
            checksums = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    found = np.fromiter(ordered_map(zlib.crc32, images), np.uint32, len(images))
    release(images)
    return images if np.array_equal(found, checksums) else None


def release(images: NDArray[np.uint8]) -> None:
    """Let go of what was read of a memory map: while there is room for it the system keeps it in its page cache."""
    if isinstance(images.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        images.base.madvise(mmap.MADV_DONTNEED)


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
