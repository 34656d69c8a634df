"""The blocks of a network, from its input to its head: unfrozen one by one, or learning at rates of their own."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from harness.api import Backbone

__all__ = ["blocks_of"]

_CONTAINERS = (nn.Sequential, nn.ModuleList)


def blocks_of(module: nn.Module, backbone: Backbone) -> list[list[nn.Parameter]]:
    """Return the parameters before the head, in blocks, in the order in which their layers are defined.

    Sequences are blocks one by one, and so are the parts of a layer that holds more than half of all parameters. What
    has nothing but biases and scales, as a normalisation, belongs to the block before it; parameters that stand between
    layers, as a vision transformer's positions, to the one behind. Side branches that end in an auxiliary head are left
    out.
    """
    half = _size(module) / 2
    found: list[list[nn.Parameter]] = []
    loose: list[nn.Parameter] = []
    seen: set[int] = set()
    for pieces, between_layers in _pieces("", module, backbone, half):
        parameters = [one for one in pieces if id(one) not in seen]  # a layer may stand in several places
        seen.update(map(id, parameters))
        if not parameters:
            continue
        if between_layers:
            loose += parameters
        elif found and all(parameter.ndim <= 1 for parameter in parameters):
            found[-1] += parameters
        else:
            found.append(loose + parameters)
            loose = []
    if loose and found:
        found[-1] += loose
    return found


def _pieces(name: str, layer: nn.Module, backbone: Backbone, half: float) -> Iterator[tuple[list[nn.Parameter], bool]]:
    """Yield parameters of a layer piece by piece, and whether they stand between its layers."""
    heads = (backbone.head, *backbone.auxiliary_heads)
    inside = [head for head in heads if not name or f"{head}.".startswith(f"{name}.")]
    if name == backbone.head or (inside and backbone.head not in inside):
        return
    children = dict(layer.named_children())
    if children and (inside or type(layer) in _CONTAINERS or _size(layer) > half):
        if own := list(layer.parameters(recurse=False)):
            yield own, True
        for part, child in children.items():
            yield from _pieces(f"{name}.{part}" if name else part, child, backbone, half)
    elif parameters := list(layer.parameters()):
        yield parameters, False


def _size(layer: nn.Module) -> int:
    return sum(parameter.numel() for parameter in layer.parameters())
