"""harness: which pretrained backbone, schedule and ensemble is best on your images, and is the difference real?

This package knows the kinds of plugin and names none. Importing it imports nothing heavy.
"""

from harness.api import (
    SGD,
    Adam,
    Backbone,
    Combined,
    ConstantLR,
    CyclicLR,
    Dataset,
    DatasetOptions,
    Ensemble,
    ImageRef,
    ImageSource,
    ImageSplits,
    PretrainedWeights,
    Schedule,
    Stage,
    Transform,
)
from harness.errors import HarnessError

__all__ = [
    "SGD",
    "Adam",
    "Backbone",
    "Combined",
    "ConstantLR",
    "CyclicLR",
    "Dataset",
    "DatasetOptions",
    "Ensemble",
    "HarnessError",
    "ImageRef",
    "ImageSource",
    "ImageSplits",
    "PretrainedWeights",
    "Schedule",
    "Stage",
    "Transform",
]
