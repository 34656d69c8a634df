"""Backbones as torchvision builds them, with its ``IMAGENET1K_V1`` weights: the paper's three, and two more."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from harness.api import Backbone, PretrainedWeights

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["AlexNet", "DenseNet121", "GoogLeNet", "InceptionV3", "ResNet18"]


def _imagenet(enum: str, filename: str) -> Mapping[str, PretrainedWeights]:
    return {
        "imagenet": PretrainedWeights(
            origin=f"torchvision {enum}.IMAGENET1K_V1",
            filename=filename,
            sha256=filename.rpartition("-")[2].removesuffix(".pth"),
            url=f"https://download.pytorch.org/models/{filename}",
        )
    }


class AlexNet(Backbone):
    """AlexNet (Krizhevsky 2014, arXiv:1404.5997): no BatchNorm, dropout 0.5 before two of its three linear layers."""

    head = "classifier.6"

    def pretrained(self) -> Mapping[str, PretrainedWeights]:
        """Name torchvision's checkpoint."""
        return _imagenet("AlexNet_Weights", "alexnet-owt-7be5be79.pth")

    def architecture(self, *, auxiliary: bool) -> nn.Module:
        """Build the network; it has no auxiliary heads."""
        del auxiliary
        from torch.nn import Identity
        from torchvision.models import alexnet

        module: nn.Module = alexnet(weights=None)
        # It makes 6 x 6 of the 6 x 6 that come of 224 pixels, and on a GPU no gradient of it repeats to the bit.
        module.avgpool = Identity()
        return module


class GoogLeNet(Backbone):
    """GoogLeNet (Szegedy et al. 2014, arXiv:1409.4842) with BatchNorm and two auxiliary heads, off unless asked for.

    Its checkpoint was ported from TensorFlow: the network itself maps ImageNet-normalised input to [-1, 1].
    """

    head = "fc"
    auxiliary_heads = ("aux1.fc2", "aux2.fc2")

    def pretrained(self) -> Mapping[str, PretrainedWeights]:
        """Name torchvision's checkpoint; its auxiliary heads' values are not pretrained, as torchvision warns."""
        return _imagenet("GoogLeNet_Weights", "googlenet-1378be20.pth")

    def architecture(self, *, auxiliary: bool) -> nn.Module:
        """Build the network with its input transform, and with the auxiliary heads where asked for."""
        from torchvision.models import googlenet

        module: nn.Module = googlenet(weights=None, aux_logits=auxiliary, transform_input=True, init_weights=True)
        return module

    def adapt_state_dict(self, state: Mapping[str, Tensor], module: nn.Module) -> Mapping[str, Tensor]:
        """Drop the auxiliary heads' entries where ``module`` was built without them."""
        own = module.state_dict().keys()
        return {key: value for key, value in state.items() if key in own or not key.startswith("aux")}

    def logits(self, output: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Split the named tuple that the network returns in train mode when it has auxiliary heads."""
        if isinstance(output, tuple):
            return output.logits, (output.aux_logits1, output.aux_logits2)  # type: ignore[attr-defined]
        return output, ()


class ResNet18(Backbone):
    """ResNet18 (He et al. 2015, arXiv:1512.03385)."""

    head = "fc"

    def pretrained(self) -> Mapping[str, PretrainedWeights]:
        """Name torchvision's checkpoint."""
        return _imagenet("ResNet18_Weights", "resnet18-f37072fd.pth")

    def architecture(self, *, auxiliary: bool) -> nn.Module:
        """Build the network; it has no auxiliary heads."""
        del auxiliary
        from torchvision.models import resnet18

        module: nn.Module = resnet18(weights=None)
        return module


class DenseNet121(Backbone):
    """DenseNet121 (Huang et al. 2016, arXiv:1608.06993)."""

    head = "classifier"

    def pretrained(self) -> Mapping[str, PretrainedWeights]:
        """Name torchvision's checkpoint."""
        return _imagenet("DenseNet121_Weights", "densenet121-a639ec97.pth")

    def architecture(self, *, auxiliary: bool) -> nn.Module:
        """Build the network; it has no auxiliary heads."""
        del auxiliary
        from torchvision.models import densenet121

        module: nn.Module = densenet121(weights=None)
        return module

    def adapt_state_dict(self, state: Mapping[str, Tensor], module: nn.Module) -> Mapping[str, Tensor]:
        """Rename ``norm.1`` to ``norm1`` and the like: so layers were called when the weights were published."""
        del module
        old = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)")
        return {old.sub(r"\1\2", key): value for key, value in state.items()}


class InceptionV3(Backbone):
    """Inception v3 (Szegedy et al. 2015, arXiv:1512.00567), of 299 pixels, with an auxiliary head, off by default.

    Its checkpoint was ported from TensorFlow: the network itself maps ImageNet-normalised input to [-1, 1].
    """

    head = "fc"
    auxiliary_heads = ("AuxLogits.fc",)
    input_size = 299
    crop_pct = 299 / 342

    def pretrained(self) -> Mapping[str, PretrainedWeights]:
        """Name torchvision's checkpoint."""
        return _imagenet("Inception_V3_Weights", "inception_v3_google-0cc3c7bd.pth")

    def architecture(self, *, auxiliary: bool) -> nn.Module:
        """Build the network with its input transform, and with the auxiliary head where asked for."""
        from torchvision.models import inception_v3

        module: nn.Module = inception_v3(weights=None, aux_logits=auxiliary, transform_input=True, init_weights=True)
        return module

    def adapt_state_dict(self, state: Mapping[str, Tensor], module: nn.Module) -> Mapping[str, Tensor]:
        """Drop the auxiliary head's entries where ``module`` was built without it."""
        own = module.state_dict().keys()
        return {key: value for key, value in state.items() if key in own or not key.startswith("AuxLogits")}

    def logits(self, output: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Split the named tuple that the network returns in train mode when it has an auxiliary head."""
        if isinstance(output, tuple):
            return output.logits, (output.aux_logits,)  # type: ignore[attr-defined]
        return output, ()
