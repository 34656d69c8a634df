"""A box of each image, resized on a GPU: one Triton kernel for a whole batch."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, arg-type"
# Triton compiles the kernel's code, which is Python in its form alone.

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["resample_on_gpu"]

_BLOCK = 256  # pixels of an image that one program makes


def resample_on_gpu(images: Tensor, boxes: Tensor, flips: Tensor, size: int, beyond: bool) -> Tensor:
    """Do what :func:`harness.data.augment.resample` says, to images in the layout that it gives them."""
    pixels = images.permute(0, 2, 3, 1).contiguous()
    n, height, width, channels = pixels.shape
    made = torch.empty((n, size, size, channels), dtype=torch.uint8, device=images.device)
    grid = (n, triton.cdiv(size * size * channels, _BLOCK))
    _resample[grid](
        pixels,
        boxes.to(images.device, torch.float32).contiguous(),
        flips.to(images.device).contiguous(),
        made,
        height,
        width,
        channels,
        size,
        beyond,
        _BLOCK,
    )
    return made.permute(0, 3, 1, 2)


@triton.jit
def _first_and_support(begin, length, place, size):
    """Return the first pixel that a pixel of the result takes from, the place it lies at, and how far it reaches."""
    scale = length / size
    support = tl.maximum(scale, 1.0)
    centre = begin + (place.to(tl.float32) + 0.5) * scale
    return tl.floor(centre - support + 0.5), centre, support


@triton.jit
def _weight(pixel, centre, support, low, high):
    """Bilinear's: a triangle as wide as ``support`` to both sides, and nothing from beyond ``low`` and ``high``."""
    middle = pixel + 0.5
    weight = tl.maximum(1.0 - tl.abs(middle - centre) / support, 0.0)
    return tl.where((middle > low) & (middle < high), weight, 0.0)


@triton.jit
def _resample(
    images,
    boxes,
    flips,
    made,
    height,
    width,
    channels,
    size,
    beyond: tl.constexpr,
    BLOCK: tl.constexpr,
):
    image = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size * size * channels
    channel, column, row = at % channels, at // channels % size, at // channels // size
    column = tl.where(tl.load(flips + image), size - 1 - column, column)
    top, left = tl.load(boxes + 4 * image), tl.load(boxes + 4 * image + 1)
    box_height, box_width = tl.load(boxes + 4 * image + 2), tl.load(boxes + 4 * image + 3)
    first_x, centre_x, support_x = _first_and_support(left, box_width, column, size)
    first_y, centre_y, support_y = _first_and_support(top, box_height, row, size)
    low_x, high_x, low_y, high_y = 0.0, width.to(tl.float32), 0.0, height.to(tl.float32)
    if not beyond:
        low_x, high_x, low_y, high_y = left, left + box_width, top, top + box_height
    level = tl.zeros((BLOCK,), tl.float32)
    weights_y = tl.zeros((BLOCK,), tl.float32)
    for step_y in range(0, tl.ceil(2 * support_y).to(tl.int32)):
        y = first_y + step_y
        weight_y = _weight(y, centre_y, support_y, low_y, high_y)
        line = tl.zeros((BLOCK,), tl.float32)
        weights_x = tl.zeros((BLOCK,), tl.float32)
        for step_x in range(0, tl.ceil(2 * support_x).to(tl.int32)):
            x = first_x + step_x
            weight_x = _weight(x, centre_x, support_x, low_x, high_x)
            there = inside & (weight_x > 0) & (weight_y > 0)
            offset = ((image * height + y.to(tl.int64)) * width + x.to(tl.int64)) * channels + channel
            line += weight_x * tl.load(images + offset, there, 0).to(tl.float32)
            weights_x += weight_x
        level += weight_y * tl.floor(line / weights_x + 0.5)  # Pillow too keeps whole levels between
        weights_y += weight_y
    level = tl.floor(level / weights_y + 0.5)
    tl.store(made + image * size * size * channels + at, level.to(tl.uint8), inside)
