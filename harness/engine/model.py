"""A backbone made ready: weights loaded, head replaced, and what may train."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from harness.api import Backbone, Stage
from harness.engine.blocks import blocks_of
from harness.engine.seeds import seed_for
from harness.engine.weights import load_weights
from harness.errors import BrokenPluginError, TrainingError
from harness.results import WeightsRecord

__all__ = ["build", "is_trained", "norms_held", "prepare", "set_train_mode", "trained_blocks"]


def build(
    backbone: Backbone,
    name: str,
    *,
    weights: str,
    classes: int,
    auxiliary: bool,
    seed: int,
    note: Callable[[str], None],
) -> tuple[nn.Module, WeightsRecord]:
    """Build the network with its weights and with new heads for ``classes``, drawn from ``seed``.

    Raises:
        WeightsError: the weights cannot be had or do not fit.
        BrokenPluginError: ``head`` names no layer that can be replaced.
    """
    with torch.random.fork_rng(devices=[]):
        heads = _heads(backbone, auxiliary)  # which a plugin may have to look for in a network of its own
        torch.manual_seed(seed_for(seed, "weights"))
        module = backbone.architecture(auxiliary=auxiliary)
        record = load_weights(module, backbone, name, weights, note)
        torch.manual_seed(seed_for(seed, "head"))
        for head in heads:
            try:
                layer = module.get_submodule(head)
            except AttributeError:
                layer = None
            if isinstance(layer, nn.Linear):
                new: nn.Module = nn.Linear(layer.in_features, classes, bias=layer.bias is not None)
            elif isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1):
                same = {"stride": layer.stride, "padding": layer.padding, "bias": layer.bias is not None}
                new = nn.Conv2d(layer.in_channels, classes, 1, **same)  # type: ignore[arg-type]
            else:
                raise BrokenPluginError(
                    f"the backbone {name!r} says that its head is {head!r}, which should be an nn.Linear or an "
                    f"nn.Conv2d of kernel 1; found {type(layer).__name__}"
                )
            module.set_submodule(head, new)
    return module, record


def _heads(backbone: Backbone, auxiliary: bool) -> tuple[str, ...]:
    return (backbone.head, *(backbone.auxiliary_heads if auxiliary else ()))


def trained_blocks(
    module: nn.Module, backbone: Backbone, stage: Stage, epoch: int | None = None
) -> list[list[nn.Parameter]]:
    """Return what a stage trains in an epoch, or ever, in blocks from the input to the head, which is the last one.

    Raises:
        TrainingError: the network has fewer blocks.
    """
    before = blocks_of(module, backbone)
    if stage.trainable == "all":
        known = {id(parameter) for block in before for parameter in block}
        return [*before, [parameter for parameter in module.parameters() if id(parameter) not in known]]
    most = 0 if stage.trainable == "head" else stage.trainable
    unfrozen = most + sum(epoch is None or at <= epoch for at in stage.unfreeze_at)
    if most + len(stage.unfreeze_at) > len(before):
        raise TrainingError(
            f"{stage.name} trains {most + len(stage.unfreeze_at)} blocks before the head (trainable, unfreeze_at), and "
            f"this network has {len(before)}"
        )
    heads = _heads(backbone, stage.auxiliary_weight > 0)
    return [
        *before[len(before) - unfrozen :],
        [parameter for head in heads for parameter in module.get_submodule(head).parameters()],
    ]


def prepare(module: nn.Module, backbone: Backbone, stage: Stage, epoch: int | None = None) -> list[nn.Parameter]:
    """Make trainable what a stage trains in an epoch, or ever, and nothing else; return those parameters."""
    trained = {id(value) for block in trained_blocks(module, backbone, stage, epoch) for value in block}
    for parameter in module.parameters():
        parameter.requires_grad_(id(parameter) in trained)
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def is_trained(layer: nn.Module) -> bool:
    """Tell whether a layer has parameters that the stage trains."""
    return any(parameter.requires_grad for parameter in layer.parameters())


def set_train_mode(module: nn.Module, stage: Stage) -> None:
    """Put the network into train mode, save for what the stage wants left alone."""
    module.train()
    for layer in _norms(module):
        layer.train(stage.batch_norm == "train")
    for layer in module.modules():
        if isinstance(layer, nn.modules.dropout._DropoutNd):
            layer.train(stage.dropout)


@contextmanager
def norms_held(module: nn.Module, stage: Stage) -> Iterator[None]:
    """Keep the BatchNorms that a stage leaves alone in eval mode, whoever puts the network into train mode."""
    held = [] if stage.batch_norm == "train" else list(_norms(module))
    handles = [layer.register_forward_pre_hook(_stay) for layer in held]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _stay(layer: nn.Module, _inputs: Any) -> None:
    layer.training = False


def _norms(module: nn.Module) -> Iterator[nn.Module]:
    # The public base of all BatchNorms has no public name.
    return (layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm))
