"""Layers of faster forms: what they compute, torch's own layers compute too, but slower."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

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
    """oneDNN's convolution with the ReLU behind it, on a CPU and without gradients.

    Weights are laid out once, as suits the size of the images, where ``nn.Conv2d`` does it at every call. These
    operators of torch have no public name; its own compiler calls them.
    """

    def __init__(self, layer: nn.Conv2d, relu: bool) -> None:
        super().__init__()
        self.layer: nn.Conv2d | None = layer
        self.relu = relu
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
        convolved: Tensor = torch.ops.mkldnn._convolution_pointwise(
            images, weight, bias, *self._how, "relu" if self.relu else "none", [], ""
        )
        return convolved


class MaxPool(nn.Module):
    """Max-pooling of what is not negative, on a CPU.

    In bf16, such numbers are in the order of their bits, and integers are compared twice as fast.
    """

    def __init__(self, layer: nn.MaxPool2d) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, images: Tensor) -> Tensor:
        """Pool images."""
        if images.dtype != torch.bfloat16:
            pooled: Tensor = self.layer(images)
            return pooled
        layer = self.layer
        return F.max_pool2d(
            images.view(torch.int16), layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.ceil_mode
        ).view(torch.bfloat16)
