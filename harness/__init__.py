"""harness: which pretrained backbone, schedule and ensemble is best on your images, and is the difference real?

This package knows the kinds of plugin and names none. Importing it imports nothing heavy.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.api import (
        SGD,
        Adam,
        AdamW,
        Backbone,
        Combined,
        ConstantLR,
        CosineLR,
        CrossEntropy,
        CyclicLR,
        Dataset,
        DatasetOptions,
        Ensemble,
        ExponentialLR,
        Family,
        Focal,
        ImageRef,
        ImageSource,
        ImageSplits,
        LearningRate,
        Loss,
        OneCycleLR,
        Optimizer,
        PolynomialLR,
        PretrainedWeights,
        Schedule,
        Stage,
        StepLR,
        Transform,
    )
    from harness.errors import HarnessError

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Backbone",
    "Combined",
    "ConstantLR",
    "CosineLR",
    "CrossEntropy",
    "CyclicLR",
    "Dataset",
    "DatasetOptions",
    "Ensemble",
    "ExponentialLR",
    "Family",
    "Focal",
    "HarnessError",
    "ImageRef",
    "ImageSource",
    "ImageSplits",
    "LearningRate",
    "Loss",
    "OneCycleLR",
    "Optimizer",
    "PolynomialLR",
    "PretrainedWeights",
    "Schedule",
    "Stage",
    "StepLR",
    "Transform",
]


def __getattr__(name: str) -> object:
    """Import what plugins are made of when it is first asked for: the command line starts without it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from harness import api, errors

    return getattr(errors if name == "HarnessError" else api, name)
