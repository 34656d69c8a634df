"""Faster forms of a network that nothing trains: the same arithmetic, but for rounding."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from harness.config import Precision
from harness.engine.cut import Tracer

__all__ = ["InferenceForms", "keep_in_bf16"]

_APART = 1e-3  # of the largest output; fused networks are apart by about 1e-6


class InferenceForms:
    """Makes forms of one network, as its weights are by then, that compute faster what it computes in eval mode.

    Convolutions take in the BatchNorm behind them, where the network's graph can be read and the first form's outputs
    bear it out. In bf16, weights of convolutions and linear layers are kept in bf16, where autocast would convert them
    at every pass.
    """

    def __init__(self, precision: Precision) -> None:
        self._precision = precision
        self.fused: bool | None = None

    def make(self, module: nn.Module, images: Tensor) -> nn.Module:
        """Return a form of the network, which is put into eval mode; ``images`` are some of those it will get.

        It shares with the network what it does not change, and is to be used before that trains again.
        """
        made = module.eval()
        if self.fused is not False:
            try:
                made = _fuse(module)
                if self.fused is None:
                    with torch.inference_mode():
                        self.fused = _same(module(images), made(images))
            except Exception:  # reading the graph runs a plugin's code on stand-ins: anything can come of it
                self.fused = False
        if not self.fused:
            made = copy.deepcopy(module)
        if self._precision == "bf16":
            keep_in_bf16(made, made.named_modules())
        return made


def keep_in_bf16(module: nn.Module, layers: Iterable[tuple[str, nn.Module]]) -> None:
    """Put a copy in bf16 in the place of each convolution and linear layer of ``layers``, by name, in a network.

    Autocast would convert their weights at every pass.
    """
    for name, layer in list(layers):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            module.set_submodule(name, copy.deepcopy(layer).to(torch.bfloat16))


def _fuse(module: nn.Module) -> fx.GraphModule:
    """Let convolutions take in the BatchNorm that alone takes their output, in a network whose layers it shares."""
    traced = fx.GraphModule(module, Tracer().trace(module))
    layers = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        norm = layers.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(norm, nn.BatchNorm2d) or node.args[0].op != "call_module":
            continue
        before = node.args[0]
        convolution = layers[str(before.target)]
        if isinstance(convolution, nn.Conv2d) and len(before.users) == 1:
            fused = fuse_conv_bn_eval(convolution, norm).to(memory_format=torch.channels_last)
            traced.set_submodule(str(before.target), fused)
            # timm's BatchNorm has its activation inside
            traced.set_submodule(str(node.target), nn.Sequential(*norm.children()))
    traced.recompile()
    return traced


def _same(expected: object, found: object) -> bool:
    if isinstance(expected, Tensor) and isinstance(found, Tensor) and expected.shape == found.shape:
        return torch.allclose(found, expected, rtol=0, atol=_APART * float(expected.abs().max()))
    if isinstance(expected, tuple) and isinstance(found, tuple) and len(expected) == len(found):
        return all(map(_same, expected, found))
    return False
