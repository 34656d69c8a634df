"""What a plugin author implements: :class:`Backbone`, :class:`Family`, :class:`Schedule`, :class:`Ensemble`,
:class:`Dataset`.

A plugin is an object, or a class that can be called without arguments, named by an entry point in one of the groups
``harness.backbones``, ``harness.families``, ``harness.schedules``, ``harness.ensembles`` and ``harness.datasets``. Its
name is the entry point's name. Importing this module is cheap: torch is imported by the methods that need it, never
here, and a plugin module that does the same keeps ``harness plugins`` and ``harness report`` quick.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from numpy import float64, int64
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor, nn

__all__ = [
    "SGD",
    "Adam",
    "Backbone",
    "Combined",
    "ConstantLR",
    "CyclicLR",
    "Dataset",
    "DatasetOptions",
    "Download",
    "Ensemble",
    "Family",
    "ImageRef",
    "ImageSource",
    "ImageSplits",
    "Kind",
    "PretrainedWeights",
    "Schedule",
    "Stage",
    "Transform",
]


Kind = Literal["backbone", "family", "schedule", "ensemble", "dataset"]


class Options(BaseModel):
    """Base of everything that ``--set`` and a recipe can change: frozen, and closed to unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


# --- backbones -------------------------------------------------------------------------------------------------------


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


# --- schedules -------------------------------------------------------------------------------------------------------


class ConstantLR(Options):
    """The same learning rate at every step."""

    kind: Literal["constant"] = "constant"
    base: float = Field(1e-5, gt=0, description="learning rate")


class CyclicLR(Options):
    """Learning rate that moves between two bounds (Smith 2017, arXiv:1506.01186), as ``torch.optim`` computes it."""

    kind: Literal["cyclic"] = "cyclic"
    base: float = Field(0.01, gt=0, description="lower bound")
    max: float = Field(0.1, gt=0, description="upper bound")
    step_size_up: int = Field(2000, ge=1, description="steps from the lower bound to the upper one")
    mode: Literal["triangular", "triangular2"] = Field("triangular", description="triangular2 halves each cycle")
    cycle_momentum: bool = Field(True, description="move momentum the other way, from the optimizer's to low_momentum")
    low_momentum: float = Field(0.8, ge=0, lt=1, description="momentum where the rate is highest")
    step_every: Literal["batch", "epoch"] = Field("batch", description="when the rate takes a step")

    @model_validator(mode="after")
    def _ordered(self) -> CyclicLR:
        if self.max < self.base:
            raise ValueError(f"max ({self.max}) must be at least base ({self.base})")
        return self


class SGD(Options):
    """Stochastic gradient descent with momentum."""

    kind: Literal["sgd"] = "sgd"
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)


class Adam(Options):
    """Adam (Kingma and Ba 2015)."""

    kind: Literal["adam"] = "adam"
    weight_decay: float = Field(0.0, ge=0)


class Stage(Options):
    """One stage of training: what is trainable, by which rule, for how long."""

    name: str
    epochs: int = Field(ge=1, le=10_000)
    batch_size: int = Field(32, ge=1, le=65_536)
    trainable: Literal["head", "all"] = Field(description="the last layer alone, or every layer")
    optimizer: Annotated[SGD | Adam, Field(discriminator="kind")] = SGD()
    lr: Annotated[ConstantLR | CyclicLR, Field(discriminator="kind")] = ConstantLR()
    batch_norm: Literal["train", "eval"] = Field(
        "train", description="train: running statistics follow the images, even where weights are frozen"
    )
    dropout: bool = Field(True, description="dropout is active while training")
    auxiliary_weight: float = Field(0.0, ge=0, description="weight of auxiliary heads' loss; 0 builds none of them")
    class_weights: Literal["none", "inverse", "sampler"] = Field(
        "none", description="inverse: loss weighted by inverse class frequency; sampler: classes drawn equally often"
    )
    checkpoint: Literal["best", "last"] = Field("best", description="epoch that is tested: best validation, or last")
    start_from: Literal["best", "last"] = Field("best", description="epoch of the stage before that this starts from")

    @model_validator(mode="after")
    def _momentum_to_cycle(self) -> Stage:
        if isinstance(self.lr, CyclicLR) and self.lr.cycle_momentum:
            if isinstance(self.optimizer, Adam):
                raise ValueError("lr.cycle_momentum needs an optimizer with momentum; set it to false, or use sgd")
            if self.optimizer.momentum < self.lr.low_momentum:
                raise ValueError(
                    f"optimizer.momentum ({self.optimizer.momentum}) must be at least lr.low_momentum "
                    f"({self.lr.low_momentum}), or lr.cycle_momentum false"
                )
        return self


class Transform(Options):
    """How an image, already squashed to the backbone's input size, becomes the network's input."""

    crop: Literal["random-resized", "none"] = Field("random-resized", description="training crop")
    crop_scale: tuple[float, float] = Field((0.08, 1.0), description="area of the crop, as a share of the image")
    crop_ratio: tuple[float, float] = Field((3 / 4, 4 / 3), description="width over height of the crop")
    flip: bool = Field(True, description="flip left to right with probability one half while training")
    evaluate: Literal["resize-crop", "resize"] = Field(
        "resize-crop", description="resize-crop: to 256/224 of the input size, then the centre; resize: the whole image"
    )
    normalize: Literal["backbone", "half", "dataset"] = Field(
        "backbone", description="mean and deviation: the pretrained weights' own, 0.5 and 0.5, or the training images'"
    )
    seed: int | None = Field(
        None,
        ge=0,
        lt=2**32,
        description="of crops and flips; the run's own if not set. One number for all lets heads of several seeds "
        "train on one pass of features",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Transform:
        for name, (low, high) in {"crop_scale": self.crop_scale, "crop_ratio": self.crop_ratio}.items():
            if not 0 < low <= high:
                raise ValueError(f"{name} must be two positive numbers, the smaller one first; found {low}, {high}")
        if self.crop_scale[1] > 1:
            raise ValueError(f"crop_scale is a share of the image, at most 1; found {self.crop_scale[1]}")
        return self


class Schedule(Options):
    """A recipe: how images are transformed, and the stages in their order."""

    description: str = ""
    transform: Transform = Transform()
    stages: tuple[Stage, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> Schedule:
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError(f"stages need distinct names; found {', '.join(names)}")
        if reserved := {"data", "transform"} & set(names):
            raise ValueError(f"a stage cannot be called {reserved.pop()!r}: that name is taken by its own options")
        return self


# --- ensembles -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Combined:
    """What an ensemble says: a label (n,) for each image, and scores (n, classes) whose rows sum to one."""

    labels: NDArray[int64]
    scores: NDArray[float64]


class Ensemble(ABC):
    """A rule that combines the stored predictions of several runs."""

    def fit(self, probabilities: NDArray[float64], labels: NDArray[int64]) -> Ensemble:
        """Return the rule fitted to validation images; this one where there is nothing to fit.

        Args:
            probabilities: of the members, (members, n, classes).
            labels: true ones, (n,).
        """
        del probabilities, labels
        return self

    @abstractmethod
    def combine(self, probabilities: NDArray[float64]) -> Combined:
        """Combine the members' probabilities, shaped (members, n, classes), of images that it was not fitted to."""


# --- datasets --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageRef:
    """One labelled image. ``group`` is what must not be torn between splits (a patient).

    ``sha256`` is of its bytes, and of whatever else decides on its pixels, such as options of the data set: images with
    the same hash have the same pixels, and are decoded once for all data sets.
    """

    id: str
    label: int
    group: str
    sha256: str


class ImageSource(Protocol):
    """Where the pixels are. ``grey`` promises that R = G = B in every image."""

    @property
    def grey(self) -> bool:
        """True where one channel holds everything."""

    def read(self, ids: Sequence[str]) -> Iterator[Image.Image]:
        """Yield the images of ``ids`` in that order, at their own size, in mode ``L`` or ``RGB``."""


@dataclass(frozen=True)
class ImageSplits:
    """A loaded data set: its classes in label order, its three splits, and where the pixels are."""

    classes: tuple[str, ...]
    train: tuple[ImageRef, ...]
    val: tuple[ImageRef, ...]
    test: tuple[ImageRef, ...]
    images: ImageSource

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over classes, splits, ids, labels, groups and contents: equal where the same data was used."""
        digest = hashlib.sha256(repr(self.classes).encode())
        for name, refs in self.named().items():
            digest.update(name.encode())
            for ref in refs:
                digest.update(f"\0{ref.id}\0{ref.label}\0{ref.group}\0{ref.sha256}".encode())
        return digest.hexdigest()

    def named(self) -> dict[str, tuple[ImageRef, ...]]:
        """Return the splits by name, in their order."""
        return {"train": self.train, "val": self.val, "test": self.test}


class DatasetOptions(Options):
    """Options of a data set; subclass it to add some. They are set as ``--set data.NAME=VALUE``.

    A field called ``path`` can also be given after a colon: ``--data imagefolder:FOLDER``.
    """


@dataclass(frozen=True)
class Download:
    """A file that the data set's publisher offers. ``size`` in bytes is checked, for want of a published hash."""

    url: str
    filename: str
    size: int


class Dataset(ABC):
    """Named splits of labelled images.

    ``synthetic`` marks generated images: every page that shows a result on them says so. ``download`` is what
    ``harness data fetch`` gets and hands to :meth:`add`; ``releases`` names the published states of the data by their
    images in each split.
    """

    Options: ClassVar[type[DatasetOptions]] = DatasetOptions
    synthetic: ClassVar[bool] = False
    citation: ClassVar[str] = ""
    licence: ClassVar[str] = ""
    download: ClassVar[Download | None] = None
    releases: ClassVar[Mapping[str, Mapping[str, int]]] = {}

    @abstractmethod
    def load(self, name: str, options: DatasetOptions) -> ImageSplits:
        """Return the splits. ``name`` is the plugin's own; no pixel is decoded yet.

        Raises:
            harness.errors.DataError: the data is not there or cannot be used, and what to do about it.
        """

    def add(self, name: str, source: Path, *, root: str | None, progress: Callable[[int, int], None]) -> None:
        """Verify and register images that the user has at ``source`` (``harness data add``).

        ``root`` is the folder inside the source that holds the splits, for when there is more than one;
        ``progress(done, total)`` is called while images are read.
        """
        del source, root, progress
        from harness.errors import DataError

        raise DataError(f"the data set {name!r} takes no images from outside, so `harness data add` has nothing to do")
