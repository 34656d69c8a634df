"""From uint8 images to the network's input, in batches, with torchvision's semantics and an explicit generator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from harness.api import Transform

__all__ = ["Augment", "Draws", "Normalize", "View", "resample", "sample_crops"]


def sample_crops(
    n: int, size: int, scale: tuple[float, float], ratio: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """Draw crop boxes as ``torchvision.transforms.RandomResizedCrop.get_params`` does, for ``n`` square images at once.

    An area and an aspect ratio (uniform in its logarithm) are tried ten times until the box fits, else the centre is
    taken.

    Returns:
        int64 (n, 4): top, left, height, width.
    """
    tries = 10
    area = size * size * torch.empty(n, tries, dtype=torch.float64).uniform_(*scale, generator=generator)
    log_ratio = torch.empty(n, tries, dtype=torch.float64)
    aspect = log_ratio.uniform_(math.log(ratio[0]), math.log(ratio[1]), generator=generator).exp()
    width = (area * aspect).sqrt().round().long()
    height = (area / aspect).sqrt().round().long()
    fits = (width > 0) & (width <= size) & (height > 0) & (height <= size)
    first = fits.to(torch.uint8).argmax(dim=1, keepdim=True)
    width, height = width.gather(1, first).squeeze(1), height.gather(1, first).squeeze(1)
    position = torch.rand(n, 2, dtype=torch.float64, generator=generator)
    top = (position[:, 0] * (size - height + 1)).floor().long()
    left = (position[:, 1] * (size - width + 1)).floor().long()
    drawn = torch.stack([top, left, height, width], dim=1)
    whole_width = size if ratio[1] >= 1 else round(size * ratio[1])
    whole_height = size if ratio[0] <= 1 else round(size / ratio[0])
    centre = torch.tensor([(size - whole_height) // 2, (size - whole_width) // 2, whole_height, whole_width])
    return torch.where(fits.any(dim=1, keepdim=True), drawn, centre)


@dataclass(frozen=True, eq=False)
class Draws:
    """What chance decided for n images: crop boxes int64 (n, 4) as of :func:`sample_crops`, flips bool (n,).

    None stands for what is done to none of them.
    """

    boxes: Tensor | None
    flips: Tensor | None

    def __getitem__(self, rows: Tensor | slice) -> Draws:
        """Return what was decided for some of the images."""
        return Draws(*(None if values is None else values[rows] for values in (self.boxes, self.flips)))

    def tensors(self) -> tuple[Tensor, ...]:
        """Return those that there are, from which :meth:`of` makes such draws again."""
        return tuple(values for values in (self.boxes, self.flips) if values is not None)

    def of(self, tensors: Sequence[Tensor]) -> Draws:
        """Return draws of the same kind as these, for other images or on another device."""
        given = iter(tensors)
        return Draws(*(None if values is None else next(given) for values in (self.boxes, self.flips)))


@dataclass(frozen=True)
class View:
    """Where an image is looked at when it is evaluated: 0 is the upper or left edge, 1 the other one."""

    vertical: float = 0.5
    horizontal: float = 0.5
    flipped: bool = False


_CORNERS = tuple(View(y, x) for y in (0.0, 1.0) for x in (0.0, 1.0))
_VIEWS = {
    "one": (View(),),
    "flip": (View(), View(flipped=True)),
    "five-crop": (View(), *_CORNERS),
    "ten-crop": tuple(View(at.vertical, at.horizontal, flip) for flip in (False, True) for at in (View(), *_CORNERS)),
}


class Normalize(nn.Module):
    """From uint8 (n, 1 or 3, h, w) to float32 (n, 3, h, w), channels-last: levels of 0 to 1, less mean, over std."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self._mean, self._std = mean, std

    def forward(self, images: Tensor) -> Tensor:
        """Normalise images."""
        shift, slope = _line(self._mean, self._std, images.device)
        values = images.permute(0, 2, 3, 1).to(torch.float32)
        return torch.addcmul(shift, values, slope).permute(0, 3, 1, 2)


@cache
def _line(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return what normalising adds to levels, and by what it multiplies them; copied to a GPU only once."""
    of_mean, of_std = (torch.tensor(values, device=device) for values in (mean, std))
    return -of_mean / of_std, 1 / (255 * of_std)


@dataclass(frozen=True)
class Augment:
    """The transforms of one schedule for one backbone: input of ``size`` pixels, normalised by ``mean`` and ``std``.

    ``crop_pct`` is the share of the side that evaluation keeps.
    """

    transform: Transform
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float = 224 / 256

    @property
    def normalize(self) -> Normalize:
        """What comes after :meth:`crop`."""
        return Normalize(self.mean, self.std)

    @property
    def views(self) -> tuple[View, ...]:
        """Where images are looked at when they are evaluated."""
        return _VIEWS[self.transform.views]

    def draw(self, n: int, generator: torch.Generator) -> Draws:
        """Decide what happens to ``n`` training images."""
        options, strength = self.transform, self.transform.strength
        cropped, flipped = options.crop == "random-resized" and strength > 0, options.flip and strength > 0
        low, high = ((1 - strength) + strength * share for share in options.crop_scale)
        narrow, wide = (share**strength for share in options.crop_ratio)
        return Draws(
            sample_crops(n, self.size, (low, high), (narrow, wide), generator) if cropped else None,
            torch.rand(n, generator=generator) < 0.5 * strength if flipped else None,
        )

    def crop(self, images: Tensor, how: Draws | View) -> Tensor:
        """Crop and flip uint8 images (n, 1 or 3, size, size), as drawn or as for evaluation."""
        if isinstance(how, View):
            return self._evaluated(images, how)
        if how.boxes is not None:
            return resample(images, how.boxes, self.size, how.flips)
        if how.flips is not None:
            return torch.where(how.flips.to(images.device)[:, None, None, None], images.flip(3), images)
        return images

    def _evaluated(self, images: Tensor, view: View) -> Tensor:
        if self.transform.evaluate != "resize-crop":
            return images.flip(3) if view.flipped else images
        # What of the enlarged image lies there.
        larger = round(self.size / self.crop_pct)
        offsets = (round((larger - self.size) * place) for place in (view.vertical, view.horizontal))
        top, left, side = (x * self.size / larger for x in (*offsets, self.size))
        box = torch.tensor([top, left, side, side], dtype=torch.float64)
        flips = torch.full((len(images),), view.flipped, device=images.device)
        return resample(images, box.expand(len(images), 4), self.size, flips, beyond=True)

    def inputs(self, images: Tensor, how: Draws | View = View()) -> Tensor:
        """Crop, flip and normalise uint8 (n, 1 or 3, size, size) into float32 (n, 3, size, size), channels-last."""
        normalized: Tensor = self.normalize(self.crop(images, how))
        return normalized


def resample(images: Tensor, boxes: Tensor, size: int, flips: Tensor | None = None, *, beyond: bool = False) -> Tensor:
    """Resize a box of each image to ``size`` x ``size``, bilinear with antialiasing, as torchvision and Pillow do.

    Args:
        images: uint8 (n, channels, height, width).
        boxes: (n, 4), top, left, height, width, in pixels.
        size: pixels on a side.
        flips: bool (n,), which of them to flip left to right.
        beyond: pixels at a box's border may take from their neighbours outside of it, as where the whole image is
            resized and the box is what is kept of it. Otherwise the box is cut out first.

    Returns:
        uint8 (n, channels, size, size). On a CPU they are Pillow's pixels; on a GPU rare ones differ from those by a
        level, or two where a box becomes smaller.
    """
    if flips is None:
        flips = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    if images.device.type == "cpu":
        return _with_pillow(images, boxes, flips, size, beyond)
    from harness.data.resample import resample_on_gpu  # Triton, which comes with torch for GPUs

    return resample_on_gpu(images, boxes, flips, size, beyond)


def _with_pillow(images: Tensor, boxes: Tensor, flips: Tensor, size: int, beyond: bool) -> Tensor:
    n, channels = images.shape[:2]
    resized = np.empty((n, size, size, channels), np.uint8)
    pixels = images.permute(0, 2, 3, 1).numpy()
    if channels == 1:
        pixels = pixels[..., 0]
    rows = zip(pixels, boxes.tolist(), flips.tolist(), resized, strict=True)
    for image, (top, left, height, width), flip, out in rows:
        box: tuple[float, float, float, float] = (left, top, left + width, top + height)
        if not beyond:
            image = np.ascontiguousarray(image[top : top + height, left : left + width])
            box = (0, 0, width, height)
        made = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR, box))
        out[...] = (made[:, ::-1] if flip else made).reshape(out.shape)
    return torch.from_numpy(resized).permute(0, 3, 1, 2)
