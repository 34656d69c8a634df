"""From uint8 images to the network's input, in batches, with torchvision's semantics and an explicit generator."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F  # noqa: N812

from harness.api import Transform

__all__ = ["Augment", "sample_crops"]


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


@dataclass(frozen=True)
class Augment:
    """The transforms of one schedule for one backbone: input of ``size`` pixels, normalised by ``mean`` and ``std``."""

    transform: Transform
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def train(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Crop, flip and normalise uint8 (n, 1 or 3, size, size) into float (n, 3, size, size)."""
        n = len(images)
        if self.transform.crop == "random-resized":
            boxes = sample_crops(n, self.size, self.transform.crop_scale, self.transform.crop_ratio, generator)
            images = torch.stack(
                [
                    F.resized_crop(image, *box, size=[self.size, self.size], antialias=True)
                    for image, box in zip(images, boxes.tolist(), strict=True)
                ]
            )
        if self.transform.flip:
            flipped = torch.rand(n, generator=generator) < 0.5
            images = torch.where(flipped.to(images.device)[:, None, None, None], images.flip(3), images)
        return self._normalize(images)

    def evaluate(self, images: Tensor) -> Tensor:
        """Transform uint8 (n, 1 or 3, size, size) into float (n, 3, size, size) without chance."""
        if self.transform.evaluate == "resize-crop":
            larger = round(self.size * 256 / 224)
            images = F.center_crop(F.resize(images, [larger, larger], antialias=True), [self.size, self.size])
        return self._normalize(images)

    def _normalize(self, images: Tensor) -> Tensor:
        values = images.expand(-1, 3, -1, -1).to(torch.float32).div(255)
        mean = torch.tensor(self.mean, device=images.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(3, 1, 1)
        return ((values - mean) / std).contiguous(memory_format=torch.channels_last)
