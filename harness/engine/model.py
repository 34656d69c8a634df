"""A backbone made ready: weights loaded, head replaced, and what may train."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from harness.api import Backbone, Stage
from harness.engine.seeds import seed_for
from harness.engine.weights import load_weights
from harness.errors import BrokenPluginError
from harness.results import WeightsRecord

__all__ = ["build", "is_trained", "prepare", "set_train_mode"]


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


def prepare(module: nn.Module, backbone: Backbone, stage: Stage) -> list[nn.Parameter]:
    """Make trainable what ``stage`` trains and nothing else; return those parameters."""
    module.requires_grad_(stage.trainable == "all")
    for head in _heads(backbone, stage.auxiliary_weight > 0):
        module.get_submodule(head).requires_grad_(True)
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def is_trained(layer: nn.Module) -> bool:
    """Tell whether a layer has parameters that the stage trains."""
    return any(parameter.requires_grad for parameter in layer.parameters())


def set_train_mode(module: nn.Module, stage: Stage) -> None:
    """Put the network into train mode, save for what the stage wants left alone."""
    module.train()
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):  # the public base of all BatchNorms has no public name
            layer.train(stage.batch_norm == "train")
        elif isinstance(layer, nn.modules.dropout._DropoutNd):
            layer.train(stage.dropout)
