"""Schedules: stages of training, and how images are transformed."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializeAsAny,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from harness.api.options import Options
from harness.api.pieces import SGD, ConstantLR, CrossEntropy, LearningRate, Loss, Optimizer, resolve

__all__ = ["Schedule", "Stage", "Transform"]


def _parts(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    try:
        return handler(value)
    except ValidationError:
        raise ValueError("should be head, all, or a number of blocks") from None


class Stage(Options):
    """One stage of training: what is trainable, by which rule, for how long."""

    name: str
    epochs: int = Field(ge=1, le=10_000)
    batch_size: int = Field(32, ge=1, le=65_536)
    trainable: Annotated[Literal["head", "all"] | Annotated[int, Field(ge=1)], WrapValidator(_parts)] = Field(
        description="the last layer alone, or it and the last so many blocks, or every layer"
    )
    unfreeze_at: tuple[int, ...] = Field(
        (), description="epochs from which one block more is trained, from the last one back"
    )
    optimizer: Annotated[SerializeAsAny[Optimizer], BeforeValidator(resolve("optimizer", "sgd"))] = SGD()
    lr: Annotated[SerializeAsAny[LearningRate], BeforeValidator(resolve("rate", "constant"))] = ConstantLR()
    lr_decay: float = Field(1.0, gt=0, le=1, description="rate of a block, as a share of that of the block behind it")
    batch_norm: Literal["train", "eval"] = Field(
        "train", description="train: running statistics follow the images, even where weights are frozen"
    )
    dropout: bool = Field(True, description="dropout is active while training")
    auxiliary_weight: float = Field(0.0, ge=0, description="weight of auxiliary heads' loss; 0 builds none of them")
    loss: Annotated[SerializeAsAny[Loss], BeforeValidator(resolve("loss", "cross_entropy"))] = CrossEntropy()
    class_weights: Literal["none", "inverse", "sampler"] = Field(
        "none", description="inverse: loss weighted by inverse class frequency; sampler: classes drawn equally often"
    )
    gradient_noise: float = Field(
        0.0,
        ge=0,
        description="eta of the variance eta / (1 + step)^0.55 of normal noise on gradients (Neelakantan et al. 2015, "
        "arXiv:1511.06807, which takes 0.01 to 1)",
    )
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="decay, each step, of an exponential moving average of the weights, which is what is evaluated",
    )
    swa: int | None = Field(
        None,
        ge=1,
        description="epoch from whose end on weights are averaged, an epoch each, which is what is evaluated "
        "(Izmailov et al. 2018, arXiv:1803.05407)",
    )
    patience: int | None = Field(
        None, ge=1, description="epochs without a better one in validation after which the stage ends"
    )
    checkpoint: Literal["best", "last"] = Field("best", description="epoch that is tested: best validation, or last")
    start_from: Literal["best", "last"] = Field("best", description="epoch of the stage before that this starts from")

    @model_validator(mode="after")
    def _fits_together(self) -> Stage:
        self.lr.fits(self.optimizer)
        if self.unfreeze_at and self.trainable == "all":
            raise ValueError("unfreeze_at needs something that is frozen: trainable is all already")
        if list(self.unfreeze_at) != sorted({epoch for epoch in self.unfreeze_at if epoch >= 1}):
            raise ValueError(f"unfreeze_at should be rising epochs, from 1; found {list(self.unfreeze_at)}")
        if late := [epoch for epoch in (*self.unfreeze_at, self.swa or 1) if epoch > self.epochs]:
            option = "swa" if late[0] == self.swa else "unfreeze_at"
            raise ValueError(f"{option} names epoch {late[0]}, and there are {self.epochs}")
        if self.ema is not None and self.swa is not None:
            raise ValueError("weights are averaged by ema or by swa, not by both")
        return self


class Transform(Options):
    """How an image, already squashed to the backbone's input size, becomes the network's input."""

    crop: Literal["random-resized", "none"] = Field("random-resized", description="training crop")
    crop_scale: tuple[float, float] = Field((0.08, 1.0), description="area of the crop, as a share of the image")
    crop_ratio: tuple[float, float] = Field((3 / 4, 4 / 3), description="width over height of the crop")
    flip: bool = Field(True, description="flip left to right with probability one half while training")
    strength: float = Field(
        1.0,
        ge=0,
        le=1,
        description="of crop and flip: 1 as they are set, 0 the whole image, never flipped; between, crop_scale and "
        "crop_ratio lie that share of the way from 1, and so does the probability of a flip from 0",
    )
    evaluate: Literal["resize-crop", "resize"] = Field(
        "resize-crop", description="resize-crop: to 256/224 of the input size, then the centre; resize: the whole image"
    )
    views: Literal["one", "flip", "five-crop", "ten-crop"] = Field(
        "one",
        description="of an image that is evaluated, whose mean probabilities count (test-time augmentation): flip adds "
        "its mirror image, five-crop the corners, ten-crop both",
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
        if self.views.endswith("crop") and self.evaluate == "resize":
            raise ValueError(f"views {self.views} needs evaluate resize-crop: of the whole image there are no corners")
        return self


class Schedule(Options):
    """A recipe: how images are transformed, and the stages in their order.

    ``weights`` is what ``--weights`` is where nobody says so: ``random`` for a schedule that trains from scratch.
    """

    description: str = ""
    weights: str = "imagenet"
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
