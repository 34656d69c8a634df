"""Layers of faster forms: what they compute, torch's own layers compute too, but slower."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Convolution", "Levels", "MaxPool"]

_BATCH = 32  # the last batch of a split is smaller, which must change nothing


class Levels(nn.Module):
    """From grey images, uint8 (n, 1, h, w), to two channels of float32: their level less 128, which bf16 holds exactly,
    and a one.

    A convolution that pads with zeros sees from the second where the image ends.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Return (n, 2, h, w), channels-last."""
        levels = images[:, 0].float() - 128
        return torch.stack([levels, torch.ones_like(levels)], dim=3).permute(0, 3, 1, 2)


class Convolution(nn.Module):
    """oneDNN's convolution, on a CPU and without gradients. Its own ReLU is not used: that makes zeros of NaNs.

    Weights are laid out once, as suits the size of the images, where ``nn.Conv2d`` does it at every call. These
    operators of torch have no public name; its own compiler calls them.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.layer: nn.Conv2d | None = layer
        self._how = ([*layer.padding], [*layer.stride], [*layer.dilation], layer.groups)
        self._packed = (torch.empty(0), layer.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Convolve images in the precision of the weights."""
        if self.layer is not None:
            weight, size = self.layer.weight.detach(), [_BATCH, *images.shape[1:]]
            packed = torch.ops.mkldnn._reorder_convolution_weight(weight, *self._how, size)
            self._packed, self.layer = (packed, self.layer.bias), None  # its own are not needed any more
        weight, bias = self._packed
        images = images.to(weight.dtype)
        convolved: Tensor = torch.ops.mkldnn._convolution_pointwise(images, weight, bias, *self._how, "none", [], "")
        return convolved


class MaxPool(nn.Module):
    """Max-pooling of what is not negative, on a CPU.

    In bf16, such numbers are in the order of their bits, so they are compared as integers, first along columns and then
    along rows. torch's own pooling also keeps where each maximum was, which takes more memory than the image.
    """

    def __init__(self, layer: nn.MaxPool2d) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, images: Tensor) -> Tensor:
        """Pool images."""
        if images.dtype != torch.bfloat16:
            pooled: Tensor = self.layer(images)
            return pooled
        # Without a sign NaNs are highest. It is taken in place, as it is nothing to whoever else reads the images.
        layer, found = self.layer, images.abs_().view(torch.int16)
        stride = layer.kernel_size if layer.stride is None else layer.stride
        for dim in (2, 3):
            kernel, step, padding = (
                size if isinstance(size, int) else size[dim - 2] for size in (layer.kernel_size, stride, layer.padding)
            )
            found = _highest(found, dim, kernel, step, padding, layer.ceil_mode)
        return found.view(torch.bfloat16)


def _highest(values: Tensor, dim: int, kernel: int, step: int, padding: int, ceil: bool) -> Tensor:
    """Return the highest of each ``kernel`` values along a dimension, none of them negative."""
    n = values.shape[dim]
    windows = (n + 2 * padding - kernel + (step - 1 if ceil else 0)) // step + 1
    if ceil and (windows - 1) * step >= n + padding:  # no window begins behind the end
        windows -= 1
    shape = [*values.shape[:dim], windows, *values.shape[dim + 1 :]]
    found = torch.empty(shape, dtype=values.dtype, memory_format=torch.channels_last).zero_()
    for offset in range(-padding, kernel - padding):
        first, last = max(0, -(offset // step)), min(windows - 1, (n - 1 - offset) // step)
        if last < first:  # all of it is padding
            continue
        seen = values.transpose(0, dim)[first * step + offset : last * step + offset + 1 : step].transpose(0, dim)
        here = found.narrow(dim, first, last - first + 1)
        torch.maximum(here, seen, out=here)
    return found
