"""What a plugin author implements: :class:`Backbone`, :class:`Family`, :class:`Schedule` and its pieces
(:class:`LearningRate`, :class:`Optimizer`, :class:`Loss`), :class:`Ensemble`, :class:`Dataset`.

A plugin is an object, or a class that can be called without arguments, named by an entry point in one of the groups
``harness.backbones``, ``harness.families``, ``harness.schedules``, ``harness.rates``, ``harness.optimizers``,
``harness.losses``, ``harness.ensembles`` and ``harness.datasets``. Its name is the entry point's name. Importing this
package is cheap: torch is imported by the methods that need it, never here, and a plugin module that does the same
keeps ``harness plugins`` and ``harness report`` quick.
"""

from harness.api.backbone import Backbone, Family, PretrainedWeights
from harness.api.dataset import Dataset, DatasetOptions, Download, ImageRef, ImageSource, ImageSplits, RemoteFile
from harness.api.ensemble import Combined, Ensemble
from harness.api.options import VERSION, Kind, Options
from harness.api.pieces import (
    SGD,
    Adam,
    AdamW,
    ConstantLR,
    CosineLR,
    CrossEntropy,
    CyclicLR,
    ExponentialLR,
    Focal,
    LearningRate,
    Loss,
    OneCycleLR,
    Optimizer,
    PolynomialLR,
    StepLR,
)
from harness.api.schedule import Schedule, Stage, Transform

__all__ = [
    "SGD",
    "VERSION",
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
    "Download",
    "Ensemble",
    "ExponentialLR",
    "Family",
    "Focal",
    "ImageRef",
    "ImageSource",
    "ImageSplits",
    "Kind",
    "LearningRate",
    "Loss",
    "OneCycleLR",
    "Optimizer",
    "Options",
    "PolynomialLR",
    "PretrainedWeights",
    "RemoteFile",
    "Schedule",
    "Stage",
    "StepLR",
    "Transform",
]
