"""The audit that looks at every image: one number of each, and what :mod:`harness.analysis.audit` makes of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageStat

from harness.analysis.audit import Number, examine
from harness.api import ImageRef, ImageSplits
from harness.data.parallel import ordered_map
from harness.errors import DataError
from harness.results import Passport, Pictures

__all__ = ["audit"]


def audit(splits: ImageSplits, progress: Callable[[int, int], None]) -> Passport:
    """Read every image once, a few at a time, and judge the data set with what was found.

    Args:
        splits: the data set.
        progress: called with (done, total).

    Raises:
        DataError: an image cannot be read.
    """
    named = splits.named()
    refs = [ref for of_split in named.values() for ref in of_split]
    means = np.empty(len(refs))
    shapes: Counter[tuple[int, int]] = Counter()
    modes: Counter[str] = Counter()
    images = zip(refs, splits.images.read([ref.id for ref in refs]), strict=True)
    try:
        for index, (mean, shape, mode) in enumerate(ordered_map(_look_at, images)):
            means[index] = mean
            shapes[shape] += 1
            modes[mode] += 1
            progress(index + 1, len(refs))
    except OSError as error:  # of the source; a reader's own errors do not come this way
        raise DataError(f"the images cannot be read: {error}") from error
    ends = np.cumsum([len(of_split) for of_split in named.values()])[:-1]
    numbers = [Number("mean intensity", "of 255", dict(zip(named, np.split(means, ends), strict=True)))]
    notes = []
    sizes = {split: [ref.size for ref in of_split if ref.size is not None] for split, of_split in named.items()}
    if sum(map(len, sizes.values())) == len(refs):
        numbers.insert(0, Number("file size", "bytes", {split: np.array(sizes[split], float) for split in named}))
    else:
        notes.append("file sizes are unknown: where images are files, add the data again (`harness data add`)")
    pictures = None
    if refs:
        widths, heights = zip(*shapes, strict=True)
        pictures = Pictures(
            len(shapes), (min(widths), max(widths)), (min(heights), max(heights)), dict(sorted(modes.items()))
        )
    return examine(splits, numbers, pictures, notes)


def _look_at(item: tuple[ImageRef, Image.Image]) -> tuple[float, tuple[int, int], str]:
    """Return an image's mean intensity (0 to 255), width and height, and mode."""
    ref, image = item
    try:
        return ImageStat.Stat(image.convert("L")).mean[0], image.size, image.mode
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{ref.id} cannot be decoded: {error}") from error
