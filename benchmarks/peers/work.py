"""What every peer does: one stage of transfer learning on the same folder of images, then the test images once.

A peer is a script that takes a :class:`Work` as JSON and prints its :class:`Speeds` as JSON on its last line.
Everything here is what torchvision's users write; peers use of it what their own library does not bring.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

BATCH_SIZE = 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Work:
    """``images`` holds train/, val/ and test/, a folder of JPEG files for each class below."""

    images: str
    backbone: str = "resnet18"
    batch_norm: str = "eval"  # or train: of the frozen layers
    trainable: str = "head"  # or all
    augment: bool = True
    epochs: int = 1
    precision: str = "bf16"  # of harness; peers compute in what is usual with them
    workers: int = 2

    @classmethod
    def given(cls) -> Work:
        """Read it from the command line."""
        return cls(**json.loads(sys.argv[1]))


@dataclass(frozen=True)
class Speeds:
    """Images per second: of the last epoch's training alone, and of the test images."""

    train: float
    test: float

    def tell(self) -> None:
        print(json.dumps(asdict(self)), flush=True)


def timed(function: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def network(work: Work):
    """Return torchvision's network with a new head for two classes, and that head."""
    import torchvision
    from torch import nn

    options = {"aux_logits": False, "init_weights": False} if work.backbone == "googlenet" else {}
    model = getattr(torchvision.models, work.backbone)(weights=None, **options)
    model.requires_grad_(work.trainable == "all")
    if work.backbone == "alexnet":
        head = model.classifier[6] = nn.Linear(model.classifier[6].in_features, 2)
    else:
        head = model.fc = nn.Linear(model.fc.in_features, 2)
    return model, head


def train_mode(model, work: Work) -> None:
    """Put the network into train mode, its BatchNorms as the work wants them."""
    from torch import nn

    model.train()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.train(work.batch_norm == "train")


def folder(work: Work, split: str):
    """Return a split as a data set, transformed as in PyTorch's tutorial on transfer learning."""
    from torchvision import datasets, transforms

    resize = [transforms.Resize(256), transforms.CenterCrop(224)]
    if split == "train" and work.augment:
        resize = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip()]
    steps = [*resize, transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    return datasets.ImageFolder(Path(work.images) / split, transforms.Compose(steps))


def loader(work: Work, split: str):
    """Return a split's batches."""
    from torch.utils.data import DataLoader

    return DataLoader(folder(work, split), BATCH_SIZE, shuffle=split == "train", num_workers=work.workers)
