"""Every classification network of torchvision and of timm: ``--plugins torchvision:NAME,timm:NAME``."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from harness.api import Backbone, Family, PretrainedWeights
from harness.errors import PluginNotFoundError
from harness_plugins.backbones.torchvision import AlexNet, DenseNet121, GoogLeNet, InceptionV3

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Timm", "Torchvision"]


class Torchvision(Family):
    """The networks of ``torchvision.models``, with the first ImageNet weights that were published of each."""

    def names(self) -> Sequence[str]:
        """List them."""
        from torchvision import models

        return list(models.list_models(module=models))

    def backbone(self, name: str) -> Backbone:
        """Return one of them.

        Raises:
            PluginNotFoundError: it has none of that name.
        """
        _check("torchvision", name, self.names())
        special: dict[str, type[Backbone]] = {"alexnet": AlexNet, "googlenet": GoogLeNet, "inception_v3": InceptionV3}
        return special[name]() if name in special else _OfTorchvision(name)


class _OfTorchvision(Backbone):
    def __init__(self, name: str) -> None:
        from torchvision.models import get_model_weights

        self._name = name
        published = get_model_weights(name)
        self._weights: Any = getattr(published, "IMAGENET1K_V1", published.DEFAULT)
        transform = self._weights.transforms()
        self.input_size = transform.crop_size[0]
        self.crop_pct = transform.crop_size[0] / transform.resize_size[0]
        self.mean, self.std = tuple(transform.mean), tuple(transform.std)

    @cached_property
    def head(self) -> str:  # type: ignore[override]
        """The last layer that gives ImageNet's thousand classes."""
        import torch
        from torch import nn

        try:
            with torch.device("meta"):  # without its weights
                network = self.architecture(auxiliary=False)
        except NotImplementedError:  # it computes with them while it is built
            network = self.architecture(auxiliary=False)
        layers = network.named_modules()
        found = [name for name, layer in layers if isinstance(layer, nn.Linear | nn.Conv2d) and _outputs(layer) == 1000]
        return str(found[-1])

    def pretrained(self) -> Mapping[str, PretrainedWeights]:
        """Name torchvision's checkpoint."""
        filename = self._weights.url.rpartition("/")[2]
        digits = filename.rpartition("-")[2].removesuffix(".pth")
        origin = f"torchvision {self._weights}"
        return {"imagenet": PretrainedWeights(origin, filename, digits, self._weights.url)}

    def architecture(self, *, auxiliary: bool) -> nn.Module:
        """Build the network; of those that have auxiliary heads each is a plugin of its own."""
        del auxiliary
        from torchvision.models import get_model

        size = {"image_size": self.input_size} if self._name.startswith("vit_") else {}  # of their weights
        module: nn.Module = get_model(self._name, weights=None, **size)
        return module

    def adapt_state_dict(self, state: Mapping[str, Tensor], module: nn.Module) -> Mapping[str, Tensor]:
        """Rename what DenseNets were called when their weights were published."""
        return DenseNet121().adapt_state_dict(state, module) if self._name.startswith("densenet") else state


class Timm(Family):
    """The networks of timm, each with the weights that timm loads by default.

    Of these, ``imagenet`` loads those whose file's name states a hash. Others are on the Hugging Face hub alone, with
    nothing to check a download by before it is there; who has such a file says ``--weights timm:NAME=FILE``.
    """

    def names(self) -> Sequence[str]:
        """List them."""
        import timm

        return list(timm.list_models())

    def backbone(self, name: str) -> Backbone:
        """Return one of them, or one with other weights of its own, as ``resnet50.a1_in1k``.

        Raises:
            PluginNotFoundError: it has none of that name.
        """
        import timm

        if not timm.is_model(name):
            _check("timm", name, self.names())
        try:
            settings = timm.get_pretrained_cfg(name, allow_unregistered=False)
        except RuntimeError as error:  # the part behind the dot
            raise PluginNotFoundError(f"timm has no network called {name!r}: {str(error).splitlines()[0]}") from error
        if settings is None:
            raise PluginNotFoundError(f"timm has no settings for {name!r}: `harness plugins --family timm` lists names")
        return _OfTimm(name)


class _OfTimm(Backbone):
    def __init__(self, name: str) -> None:
        import timm

        self._name = name
        settings: Any = timm.get_pretrained_cfg(name)
        self._settings = settings
        _, height, width = settings.input_size
        if height != width:
            raise PluginNotFoundError(f"timm's {name} looks at {height} x {width} pixels; harness shows squares")
        self.input_size = height
        self.crop_pct = settings.crop_pct
        self.mean, self.std = settings.mean, settings.std
        heads = settings.classifier
        if not settings.num_classes:
            raise PluginNotFoundError(f"timm's {name} was trained without classes, and has no head to replace")
        if not isinstance(heads, str):
            raise PluginNotFoundError(f"timm's {name} has no single head ({heads}), which harness would replace")
        self.head = heads

    def pretrained(self) -> Mapping[str, PretrainedWeights]:
        """Name timm's checkpoint, if its file's name states a hash."""
        url = self._settings.url or ""
        filename = url.rpartition("/")[2]
        found = re.search(r"-([0-9a-f]{8,})\.\w+$", filename)
        return {"imagenet": PretrainedWeights(f"timm {self._name}", filename, found[1], url)} if found else {}

    def architecture(self, *, auxiliary: bool) -> nn.Module:
        """Build the network; it has no auxiliary heads."""
        del auxiliary
        import timm

        module: nn.Module = timm.create_model(self._name, pretrained=False)
        return module


def _outputs(layer: nn.Linear | nn.Conv2d) -> int:
    return int(getattr(layer, "out_features", 0) or getattr(layer, "out_channels", 0))


def _check(family: str, name: str, names: Sequence[str]) -> None:
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3)
        said = f"Did you mean {' or '.join(near)}? " if near else ""
        raise PluginNotFoundError(
            f"{family} has no network called {name!r}. {said}"
            f"`harness plugins --family {family}` lists all {len(names)}."
        )
