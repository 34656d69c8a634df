"""Where a network can be cut: before the cut, what training leaves alone; behind it, what training moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from harness.engine.checkpoint import digest
from harness.engine.model import is_trained

__all__ = ["Cut", "CutError", "Tracer", "close", "cut", "part"]

_APART = 1e-3  # of the largest number; the same network in another form is apart by about 1e-6


class CutError(Exception):
    """The network cannot be cut, or too much would have to be kept. The message says why."""


@dataclass(frozen=True)
class Cut:
    """A network in two parts, which share its parameters and buffers.

    ``tail(*trunk(images))`` is what the network gives, and the trunk is a pure function of each image: it draws
    nothing, remembers nothing, and what it makes of an image does not depend on the batch (but for rounding). ``code``
    is the trunk's, in words.
    """

    trunk: fx.GraphModule
    tail: fx.GraphModule
    code: str

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return what the trunk hands to the tail."""
        made: tuple[Tensor, ...] = self.trunk(images)
        return made


def cut(module: nn.Module, logits: Callable[[Any], tuple[Tensor, Any]], images: Tensor) -> Cut:
    """Cut a network, as it is set to train, before the first layer that draws, follows the batches or is trained.

    What belongs behind the cut is read off the network's graph; on ``images``, that reading is tried out.

    Args:
        module: with train modes and ``requires_grad`` set as the stage will have them.
        logits: finds the logits in what the network gives, as :meth:`harness.api.Backbone.logits`.
        images: some of them, float (n >= 2, 3, s, s), as the network will get them.

    Raises:
        CutError: there is no such cut.
    """
    if len(images) < 2:
        raise CutError("one image is too few to try it out on")
    if any(_follows_batches(layer) for layer in module.modules()):
        raise CutError("BatchNorm follows the batches")
    try:
        parts = _parts(module)
    except CutError:
        raise
    except Exception as error:  # tracing runs the plugin's code on stand-ins for tensors: anything can come of it
        raise CutError(f"its graph cannot be read ({type(error).__name__}: {error})") from error
    with _untouched(module, images):
        _try_out(module, parts, logits, images)
    return parts


class Tracer(fx.Tracer):
    """Follows a network down to torch's own layers, to BatchNorms, and to layers that have none inside."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Tell whether a layer is one step of the graph."""
        inner = any(m.children()) and not isinstance(m, nn.modules.batchnorm._BatchNorm)
        return super().is_leaf_module(m, module_qualified_name) or not inner


def _parts(module: nn.Module) -> Cut:
    traced = fx.GraphModule(module, Tracer().trace(module))
    steps = [node for node in traced.graph.nodes if node.op not in ("placeholder", "output")]
    behind: list[fx.Node] = []
    for node in steps:
        if _moves(traced, node) or any(before in behind for before in node.all_input_nodes):
            behind.append(node)
    (last,) = (node for node in traced.graph.nodes if node.op == "output")
    crossing = [node for node in steps if node not in behind and any(user in (*behind, last) for user in node.users)]
    constants = [node for node in crossing if node.op == "get_attr"]
    features = [node for node in crossing if node.op != "get_attr"]
    inputs = [node for node in traced.graph.nodes if node.op == "placeholder"]
    if not features:
        raise CutError("nothing in it stays as it is")
    if any(user in behind for node in inputs for user in node.users):
        raise CutError("what is trained looks at the image itself")
    trunk = part(traced, inputs, [node for node in steps if node not in behind], tuple(features))
    tail = part(traced, features, [*constants, *behind], last.args[0])
    return Cut(trunk, tail, f"{trunk!r} {trunk.code}")


def part(
    traced: fx.GraphModule, inputs: list[fx.Node], steps: list[fx.Node], output: fx.node.Argument
) -> fx.GraphModule:
    """Return a network of some of the steps of a traced one, from ``inputs`` to ``output``; it shares its layers."""
    graph = fx.Graph()
    copies = {node: graph.placeholder(node.name) for node in inputs}
    for node in steps:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(fx.map_arg(output, copies.__getitem__))
    return fx.GraphModule(traced, graph)


def _moves(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Tell whether a step is trained or draws, as far as it can be seen."""
    if node.op == "call_module":
        layer = traced.get_submodule(str(node.target))
        drops = isinstance(layer, nn.modules.dropout._DropoutNd) and layer.training and layer.p > 0
        return drops or is_trained(layer)
    if node.op == "get_attr":
        owner, _, name = str(node.target).rpartition(".")
        return bool(getattr(traced.get_submodule(owner), name).requires_grad)
    return node.op == "call_function" and bool(node.kwargs.get("training", False))


def _follows_batches(layer: nn.Module) -> bool:
    norm = isinstance(layer, nn.modules.batchnorm._BatchNorm)
    return norm and (layer.training or layer.running_mean is None)


@contextmanager
def _untouched(module: nn.Module, images: Tensor) -> Iterator[None]:
    """Leave torch's generator, the layers' modes and the buffers as they were."""
    modes = {layer: layer.training for layer in module.modules()}
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    with torch.random.fork_rng([images.device] if images.is_cuda else []), torch.no_grad():
        try:
            yield
        finally:
            for layer, mode in modes.items():
                layer.training = mode
            for name, buffer in module.named_buffers():
                buffer.copy_(buffers[name])


def _try_out(module: nn.Module, parts: Cut, logits: Callable[[Any], tuple[Tensor, Any]], images: Tensor) -> None:
    generators, buffers = _generators(images), digest(dict(module.named_buffers()))
    features = parts.features(images)
    if not all(isinstance(feature, Tensor) and len(feature) == len(images) for feature in features):
        raise CutError("what its frozen layers give has not one row for each image")
    if not all(map(torch.equal, generators, _generators(images))):
        raise CutError("its frozen layers draw at random")
    if digest(dict(module.named_buffers())) != buffers:
        raise CutError("its frozen layers remember what they saw")
    apart = [parts.features(images[:1]), parts.features(images[1:])]
    for index, feature in enumerate(features):
        joined = torch.cat([part[index] for part in apart])
        _expect(feature, joined, "what its frozen layers make of an image depends on the batch")
    if sum(feature.nbytes for feature in features) > images.nbytes:
        raise CutError("what its frozen layers make of an image takes more memory than the image")
    found, _ = logits(parts.tail(*(feature.clone() for feature in features)))  # it may compute in place
    torch.set_rng_state(generators[0])
    if images.is_cuda:
        torch.cuda.set_rng_state(generators[1], images.device)
    _expect(logits(module(images))[0], found, "its graph computes something else than the network")
    module.eval()
    found, _ = logits(parts.tail(*(feature.clone() for feature in features)))
    _expect(logits(module(images))[0], found, "its graph does not hold in evaluation")


def _generators(images: Tensor) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(images.device)] if images.is_cuda else states


def _expect(expected: Tensor, found: Tensor, otherwise: str) -> None:
    if not close(expected, found):
        raise CutError(otherwise)


def close(expected: object, found: object) -> bool:
    """Tell whether tensors, or tuples of them, hold the same but for rounding."""
    if isinstance(expected, Tensor) and isinstance(found, Tensor) and expected.shape == found.shape:
        return torch.allclose(found, expected, rtol=0, atol=_APART * float(expected.abs().max()))
    if isinstance(expected, tuple) and isinstance(found, tuple) and len(expected) == len(found):
        return all(map(close, expected, found))
    return False
