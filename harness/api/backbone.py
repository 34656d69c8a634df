"""Backbones, and families of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Backbone", "Family", "PretrainedWeights"]


@dataclass(frozen=True)
class PretrainedWeights:
    """One checkpoint of pretrained weights, and where it can be had.

    ``sha256`` is the file's digest or the leading digits of it that its publisher states (torchvision states eight);
    a file that does not match is refused. ``path`` names a file that an installed package carries.
    """

    origin: str
    filename: str
    sha256: str
    url: str | None = None
    path: Path | None = None


class Backbone(ABC):
    """A network with its weights, its preprocessing and a classification head that can be replaced.

    ``mean`` and ``std`` are those of the RGB input in [0, 1] that the pretrained weights expect, ``crop_pct`` is the
    share of an image's side that it is evaluated on. ``head`` is the dotted name of the layer that gives the classes,
    an ``nn.Linear`` or an ``nn.Conv2d`` of kernel 1; ``auxiliary_heads`` names those of training-only side branches,
    if there are any. All of them may be set on the class or on the object.
    """

    input_size: int = 224
    crop_pct: float = 224 / 256
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    head: str
    auxiliary_heads: tuple[str, ...] = ()

    def pretrained(self) -> Mapping[str, PretrainedWeights]:
        """Name the pretrained checkpoints that exist, for example ``{"imagenet": ...}``."""
        return {}

    @abstractmethod
    def architecture(self, *, auxiliary: bool) -> nn.Module:
        """Build the network as it was pretrained, with random weights drawn by the architecture's own rule.

        Args:
            auxiliary: keep the side branches named by ``auxiliary_heads``.

        Returns:
            A module from float images (n, 3, s, s), normalised, to what :meth:`logits` understands.
        """

    def adapt_state_dict(self, state: Mapping[str, Tensor], module: nn.Module) -> Mapping[str, Tensor]:
        """Rename or drop entries of a checkpoint so that it fits ``module``, which was built with the original head."""
        del module
        return state

    def logits(self, output: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Split a forward pass's output into logits (n, classes) and those of each auxiliary head."""
        return output, ()


class Family(ABC):
    """Backbones of a library, named ``FAMILY:NAME``, where FAMILY is the plugin's name."""

    @abstractmethod
    def names(self) -> Sequence[str]:
        """List the names."""

    @abstractmethod
    def backbone(self, name: str) -> Backbone:
        """Return the backbone of that name.

        Raises:
            harness.errors.PluginNotFoundError: there is none.
        """
