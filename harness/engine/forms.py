"""Faster forms of a network that nothing trains: the same arithmetic, but for rounding."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils.fusion import fuse_conv_bn_eval

from harness.config import Precision
from harness.data.augment import Normalize
from harness.engine.cut import Tracer, close, part
from harness.engine.device import emulates, out_of_memory
from harness.engine.layers import Convolution, Levels, MaxPool

__all__ = ["InferenceForms", "keep_in_bf16"]

_RELUS = (F.relu, torch.relu)


class InferenceForms:
    """Makes forms of one network, as its weights are by then, that compute faster what it computes in eval mode.

    They take uint8 images (n, 1 or 3, s, s), and normalise them. Where the network's graph can be read and the first
    form's outputs bear it out, convolutions take in the BatchNorm behind them, the first one takes in the normalisation
    of grey images, and on a CPU oneDNN's are used. In bf16, weights of convolutions and linear layers are kept in bf16,
    where autocast would convert them at every pass. Otherwise a form is the network itself.
    """

    def __init__(self, precision: Precision, normalize: Normalize) -> None:
        self._precision, self._normalize = precision, normalize
        self.fused: bool | None = None
        self.because: str | None = None  # it is not

    def make(self, module: nn.Module, images: Tensor) -> nn.Module:
        """Return a form of the network, which is put into eval mode; ``images`` are some of those it will get.

        It shares with the network what it does not change, and is to be used before that trains again.
        """
        module.eval()
        if self.fused is None:
            self.because = self._refute(module, images)
            self.fused = self.because is None
        if self.fused:
            return _fuse(module, self._normalize, images, self._precision)
        return nn.Sequential(self._normalize, module)

    def _refute(self, module: nn.Module, images: Tensor) -> str | None:
        """Try the form out; return why it cannot be used, if so."""
        if emulates(images.device, self._precision):
            return "this CPU has no instructions for bf16"
        try:
            with torch.inference_mode():
                fused = _fuse(module, self._normalize, images, "fp32")
                if not close(module(self._normalize(images)), fused(images)):
                    return "its graph computes something else than the network"
            return None
        except Exception as error:  # reading the graph runs a plugin's code on stand-ins: anything can come of it
            if out_of_memory(error):
                raise
            return f"its graph cannot be read or computed ({type(error).__name__}: {error})"


def keep_in_bf16(traced: fx.GraphModule, but: Callable[[nn.Module], bool] = lambda _layer: False) -> None:
    """Put copies in bf16 in the place of the convolutions and linear layers that a graph calls, ``but`` for some.

    Autocast would convert their weights at every pass. Layers inside of what the graph calls are another network's too.
    """
    for node in traced.graph.nodes:
        layer = _layer(traced, node)
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.weight.dtype != torch.bfloat16 and not but(layer):
            # Parameters are converted instead of copied: of a large layer there is no room for one copy more.
            converted = {id(value): nn.Parameter(value.detach().bfloat16(), False) for value in layer.parameters()}
            traced.set_submodule(str(node.target), copy.deepcopy(layer, converted))


def _fuse(module: nn.Module, normalize: Normalize, images: Tensor, precision: Precision) -> nn.Module:
    traced = fx.GraphModule(module, Tracer().trace(module))
    grey = images.shape[1] == 1 and _take_grey(traced, normalize, images)
    _absorb_norms(traced, torch.bfloat16 if precision == "bf16" else torch.float32)
    if precision == "bf16":
        keep_in_bf16(traced)
    if images.device.type == "cpu" and torch.backends.mkldnn.is_available():
        _use_onednn(traced)
    traced.graph.eliminate_dead_code()
    traced.recompile()
    return traced if grey else nn.Sequential(normalize, traced)


def _layer(traced: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """Return the layer that a step of the graph calls, if it calls one."""
    return traced.get_submodule(str(node.target)) if node.op == "call_module" else None


def _calls(traced: fx.GraphModule) -> Counter[object]:
    return Counter(node.target for node in traced.graph.nodes if node.op == "call_module")


def _absorb_norms(traced: fx.GraphModule, dtype: torch.dtype) -> None:
    """Let convolutions take in the BatchNorm that alone takes their output; keep their weights as ``dtype``."""
    calls = _calls(traced)
    for node in list(traced.graph.nodes):
        norm = _layer(traced, node)
        if not isinstance(norm, nn.BatchNorm2d):
            continue
        (before,) = node.all_input_nodes
        convolution = _layer(traced, before)
        if isinstance(convolution, nn.Conv2d) and len(before.users) == 1 and calls[before.target] == 1:
            fused = fuse_conv_bn_eval(convolution, norm).to(dtype).to(memory_format=torch.channels_last)
            traced.set_submodule(str(before.target), fused)
            if any(norm.children()):  # timm's BatchNorm has its activation inside
                traced.set_submodule(str(node.target), nn.Sequential(*norm.children()))
            else:
                node.replace_all_uses_with(before)
                traced.graph.erase_node(node)


def _take_grey(traced: fx.GraphModule, normalize: Normalize, images: Tensor) -> bool:
    """Let the first convolution take grey images as they are, if it alone looks at them; tell whether it does.

    What it takes from three channels, each a straight line of the image's level, is one channel's and a constant's.
    """
    image, *steps = traced.graph.nodes
    layers = [_layer(traced, step) for step in steps]
    at, convolution = next((pair for pair in enumerate(layers) if isinstance(pair[1], nn.Conv2d)), (0, None))
    before, first = steps[:at], steps[at]
    alone = all(user is first or user in before for node in (image, *before) for user in node.users)
    alone = alone and _calls(traced)[first.target] == 1
    if not isinstance(convolution, nn.Conv2d) or not alone or convolution.groups != 1:
        return False
    channels = part(traced, [image], before, first.args[0])
    with torch.no_grad():
        ends = torch.tensor([0, 255], dtype=torch.uint8, device=images.device)[:, None, None, None]
        low, high = channels(normalize(ends.expand(2, *images.shape[1:])))
        low, slope = low[:, :1, :1].double(), (high - low)[:, :1, :1].double() / 255
        if not close(low + slope * images, channels(normalize(images)).double()):
            return False
        weight = convolution.weight.double()
        both = [(weight * of_one).sum(1) for of_one in (slope, low + 128 * slope)]
    grey = copy.deepcopy(convolution)
    grey.in_channels = 2
    stacked = torch.stack(both, dim=1).to(convolution.weight.dtype, memory_format=torch.channels_last)
    grey.weight = nn.Parameter(stacked, requires_grad=False)
    traced.set_submodule(str(first.target), grey)
    traced.add_submodule("levels", Levels())
    with traced.graph.inserting_before(first):
        first.args = (traced.graph.call_module("levels", (image,)),)
    return True


def _use_onednn(traced: fx.GraphModule) -> None:
    """Put convolutions and max-pools that are faster on a CPU in the place of torch's."""
    calls = _calls(traced)
    for node in list(traced.graph.nodes):
        layer = _layer(traced, node)
        if calls[node.target] > 1:  # what comes behind may be different each time
            continue
        if type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
            traced.set_submodule(str(node.target), Convolution(layer))
        plain = type(layer) is nn.MaxPool2d and (layer.dilation, layer.return_indices) == (1, False)
        if plain and _is_not_negative(traced, *node.all_input_nodes):
            traced.set_submodule(str(node.target), MaxPool(cast(nn.MaxPool2d, layer)))


def _is_relu(traced: fx.GraphModule, node: fx.Node) -> bool:
    return isinstance(_layer(traced, node), nn.ReLU) or (node.op == "call_function" and node.target in _RELUS)


def _is_not_negative(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Tell whether what a step gives is known to have no negative numbers."""
    pools = isinstance(_layer(traced, node), nn.MaxPool2d | MaxPool)
    joins = node.op == "call_function" and node.target is torch.cat
    of_such = (pools or joins) and all(_is_not_negative(traced, one) for one in node.all_input_nodes)
    return of_such or _is_relu(traced, node)
