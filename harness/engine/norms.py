"""BatchNorm in training, on a GPU, in bf16 and channels-last.

torch leaves this case to kernels of its own, as cuDNN's are for other types, and spends a third of a network's training
in them at a batch size of 32. Here it is three kernels there and three back: sums of parts, what follows from them for
each channel, and the result. Sums are kept in fp32 and added up in a fixed order, so they repeat to the bit.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, arg-type"
# Triton compiles the kernels' code, which is Python in its form alone.

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

__all__ = ["BatchNorm", "normalise", "use_fast_norms"]

_ROWS, _CHANNELS = 64, 32  # of a tile
_PROGRAMS, _GROUPS = 256, 128  # among which a tensor is divided, two for each multiprocessor; its pixels, at most
_BLOCK = 2048  # numbers that a program normalises


def use_fast_norms(module: nn.Module) -> None:
    """Make a network's BatchNorms fast in training. Their parameters, buffers and names stay what they are."""
    for layer in module.modules():
        if type(layer) is nn.BatchNorm2d:
            layer.__class__ = BatchNorm


class BatchNorm(nn.BatchNorm2d):
    """``nn.BatchNorm2d``, which it also is wherever no kernel of this module fits."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise images (n, channels, h, w)."""
        fits = (
            self.training
            and input.is_cuda
            and input.dtype == torch.bfloat16
            and input.dim() == 4
            and input.is_contiguous(memory_format=torch.channels_last)
            and input.numel() > input.shape[1]
            and self.affine
            and self.running_mean is not None
            and self.momentum is not None
        )
        if not fits:
            return super().forward(input)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return normalise(input, self.weight, self.bias, self.running_mean, self.running_var, self.momentum, self.eps)


def normalise(
    images: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    momentum: float,
    eps: float,
) -> Tensor:
    """Do in training what ``torch.nn.functional.batch_norm`` does.

    Args:
        images: (n, channels, h, w), channels-last, of more than one pixel.
        weight: float32 (channels,), as are the next three.
        bias: likewise.
        running_mean: is moved towards the images'.
        running_var: likewise.
        momentum: how far.
        eps: added to the variance.
    """
    normalised: Tensor = _Normalise.apply(images, weight, bias, running_mean, running_var, momentum, eps)
    return normalised


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        momentum: float,
        eps: float,
    ) -> Tensor:
        rows, channels, groups, per_group = _shape(images)
        sums = torch.empty((groups, 2, channels), dtype=torch.float32, device=images.device)
        mean, rstd = torch.empty_like(weight), torch.empty_like(weight)
        made = torch.empty_like(images)
        columns, blocks = triton.cdiv(channels, _CHANNELS), triton.cdiv(images.numel(), _BLOCK)
        _sum[(columns, groups)](images, sums, rows, channels, per_group, _ROWS, _CHANNELS)
        _finish[(columns,)](
            images,
            sums,
            mean,
            rstd,
            running_mean,
            running_var,
            groups,
            rows,
            channels,
            momentum,
            eps,
            _GROUPS,
            _CHANNELS,
        )
        _apply[(blocks,)](images, mean, rstd, weight, bias, made, images.numel(), channels, _BLOCK)
        ctx.save_for_backward(images, weight, mean, rstd)
        return made

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        images, weight, mean, rstd = ctx.saved_tensors
        gradient = gradients[0].contiguous(memory_format=torch.channels_last)
        rows, channels, groups, per_group = _shape(images)
        sums = torch.empty((groups, 2, channels), dtype=torch.float32, device=images.device)
        of_bias, of_weight = torch.empty_like(weight), torch.empty_like(weight)
        of_images = torch.empty_like(images)
        columns, blocks = triton.cdiv(channels, _CHANNELS), triton.cdiv(images.numel(), _BLOCK)
        _sum_back[(columns, groups)](images, gradient, mean, rstd, sums, rows, channels, per_group, _ROWS, _CHANNELS)
        _finish_back[(columns,)](sums, of_bias, of_weight, groups, channels, _GROUPS, _CHANNELS)
        _apply_back[(blocks,)](
            images, gradient, mean, rstd, weight, of_bias, of_weight, of_images, rows, images.numel(), channels, _BLOCK
        )
        return of_images, of_weight, of_bias, None, None, None, None


def _shape(images: Tensor) -> tuple[int, int, int, int]:
    """Return pixels, channels, the groups that pixels are divided into, and the pixels of a group."""
    channels = images.shape[1]
    rows = images.numel() // channels
    wanted = min(_GROUPS, max(1, _PROGRAMS // triton.cdiv(channels, _CHANNELS)))
    per_group = triton.cdiv(triton.cdiv(rows, wanted), _ROWS) * _ROWS
    return rows, channels, triton.cdiv(rows, per_group), per_group


@triton.jit
def _sum(images, sums, rows, channels, per_group, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """Sums, and sums of squares, of a group's pixels less the first one, which keeps squares small."""
    column = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    inside = column < channels
    shift = tl.load(images + column, inside, 0).to(tl.float32)
    begin = tl.program_id(1) * per_group
    end = tl.minimum(begin + per_group, rows)
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    squares = tl.zeros((ROWS, CHANNELS), tl.float32)
    for start in range(begin, end, ROWS):
        row = start + tl.arange(0, ROWS)
        there = (row < end)[:, None] & inside[None, :]
        values = tl.load(images + row.to(tl.int64)[:, None] * channels + column[None, :], there, 0).to(tl.float32)
        values = tl.where(there, values - shift[None, :], 0.0)
        total += values
        squares += values * values
    place = sums + tl.program_id(1) * 2 * channels + column
    tl.store(place, tl.sum(total, 0), inside)
    tl.store(place + channels, tl.sum(squares, 0), inside)


@triton.jit
def _add_up(sums, groups, channels, column, inside, GROUPS: tl.constexpr, CHANNELS: tl.constexpr):
    first = tl.zeros((GROUPS, CHANNELS), tl.float32)
    second = tl.zeros((GROUPS, CHANNELS), tl.float32)
    for start in range(0, groups, GROUPS):
        group = start + tl.arange(0, GROUPS)
        there = (group < groups)[:, None] & inside[None, :]
        place = sums + group[:, None] * 2 * channels + column[None, :]
        first += tl.load(place, there, 0.0)
        second += tl.load(place + channels, there, 0.0)
    return tl.sum(first, 0), tl.sum(second, 0)


@triton.jit
def _finish(
    images, sums, mean, rstd, running_mean, running_var, groups, rows, channels, momentum, eps,
    GROUPS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    inside = column < channels
    total, squares = _add_up(sums, groups, channels, column, inside, GROUPS, CHANNELS)
    shifted = total / rows
    variance = tl.maximum(squares / rows - shifted * shifted, 0.0)
    centre = tl.load(images + column, inside, 0).to(tl.float32) + shifted
    tl.store(mean + column, centre, inside)
    tl.store(rstd + column, 1.0 / tl.sqrt(variance + eps), inside)
    before = tl.load(running_mean + column, inside, 0.0)
    tl.store(running_mean + column, before + momentum * (centre - before), inside)
    before = tl.load(running_var + column, inside, 0.0)
    unbiased = variance * (rows / (rows - 1.0))
    tl.store(running_var + column, before + momentum * (unbiased - before), inside)


@triton.jit
def _apply(images, mean, rstd, weight, bias, made, numbers, channels, BLOCK: tl.constexpr):
    begin = tl.program_id(0).to(tl.int64) * BLOCK
    place = begin + tl.arange(0, BLOCK)
    inside = place < numbers
    column = ((begin % channels).to(tl.int32) + tl.arange(0, BLOCK)) % channels
    slope = tl.load(rstd + column, inside, 0.0) * tl.load(weight + column, inside, 0.0)
    values = tl.load(images + place, inside, 0).to(tl.float32) - tl.load(mean + column, inside, 0.0)
    values = values * slope + tl.load(bias + column, inside, 0.0)
    tl.store(made + place, values.to(made.dtype.element_ty), inside)


@triton.jit
def _sum_back(
    images, gradient, mean, rstd, sums, rows, channels, per_group,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Sums of a group's gradients, and of their products with the normalised pixels."""
    column = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    inside = column < channels
    centre, slope = tl.load(mean + column, inside, 0.0), tl.load(rstd + column, inside, 0.0)
    begin = tl.program_id(1) * per_group
    end = tl.minimum(begin + per_group, rows)
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    products = tl.zeros((ROWS, CHANNELS), tl.float32)
    for start in range(begin, end, ROWS):
        row = start + tl.arange(0, ROWS)
        there = (row < end)[:, None] & inside[None, :]
        place = row.to(tl.int64)[:, None] * channels + column[None, :]
        values = tl.load(images + place, there, 0).to(tl.float32)
        back = tl.load(gradient + place, there, 0).to(tl.float32)  # zero beyond the end
        total += back
        products += back * (values - centre[None, :]) * slope[None, :]
    place = sums + tl.program_id(1) * 2 * channels + column
    tl.store(place, tl.sum(total, 0), inside)
    tl.store(place + channels, tl.sum(products, 0), inside)


@triton.jit
def _finish_back(
    sums,
    of_bias,
    of_weight,
    groups,
    channels,
    GROUPS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    column = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    inside = column < channels
    total, products = _add_up(sums, groups, channels, column, inside, GROUPS, CHANNELS)
    tl.store(of_bias + column, total, inside)
    tl.store(of_weight + column, products, inside)


@triton.jit
def _apply_back(
    images, gradient, mean, rstd, weight, of_bias, of_weight, of_images, rows, numbers, channels, BLOCK: tl.constexpr
):
    begin = tl.program_id(0).to(tl.int64) * BLOCK
    place = begin + tl.arange(0, BLOCK)
    inside = place < numbers
    column = ((begin % channels).to(tl.int32) + tl.arange(0, BLOCK)) % channels
    slope = tl.load(rstd + column, inside, 0.0)
    values = (tl.load(images + place, inside, 0).to(tl.float32) - tl.load(mean + column, inside, 0.0)) * slope
    back = tl.load(gradient + place, inside, 0).to(tl.float32)
    shift = tl.load(of_bias + column, inside, 0.0) / rows
    along = tl.load(of_weight + column, inside, 0.0) / rows
    found = tl.load(weight + column, inside, 0.0) * slope * (back - shift - values * along)
    tl.store(of_images + place, found.to(of_images.dtype.element_ty), inside)
