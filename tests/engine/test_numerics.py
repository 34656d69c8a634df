"""How far the fast forms move what is computed: real ImageNet weights, real X-rays, one trained head each."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from harness import registry
from harness.api import Backbone
from harness.data.augment import Augment, View
from harness.engine import stage as stages
from harness.engine.batches import Split
from harness.engine.cut import CutError, cut
from harness.engine.device import autocast
from harness.engine.forms import InferenceForms
from harness.engine.model import build, prepare, set_train_mode
from harness.engine.stage import Trainer
from harness.results import StageResult
from harness_plugins.schedules.paper import PAPER

STAGE = PAPER.stages[0].model_copy(update={"epochs": 2, "batch_norm": "eval", "checkpoint": "last"})
TRAIN, TEST = 256, 312


@pytest.fixture(scope="module")
def splits(real_images: Path) -> dict[str, Split]:
    """As many healthy as ill, drawn evenly from the whole archive."""
    found = {}
    with zipfile.ZipFile(real_images) as archive:
        for split, n in (("train", TRAIN + 32), ("test", TEST)):
            pixels, labels = [], []
            for label, name in enumerate(("NORMAL", "PNEUMONIA")):
                names = sorted(name_ for name_ in archive.namelist() if f"/{split}/{name}/" in name_)
                for index in np.linspace(0, len(names) - 1, n // 2).astype(int):
                    with archive.open(names[index]) as file:
                        pixels.append(np.asarray(Image.open(file).convert("L").resize((224, 224)))[..., None])
                    labels.append(label)
            found[split] = Split(torch.from_numpy(np.stack(pixels)), torch.tensor(labels))
    both = found["train"]
    val = torch.arange(len(both.labels)) % 9 == 4
    found["val"] = Split(both.images[val], both.labels[val])
    found["train"] = Split(both.images[~val], both.labels[~val])
    return found


@dataclass(frozen=True)
class _Trained:
    features: Tensor
    logits: Tensor
    accuracy: float


def _train(splits: dict[str, Split], precision: str, monkeypatch: pytest.MonkeyPatch, *, joint: bool) -> _Trained:
    def refuse(*_arguments: object) -> None:
        raise CutError("the test says so")

    backbone = registry.load(registry.find("backbone", "efficientnet_lite0"), Backbone)
    module, record = build(
        backbone, "efficientnet_lite0", weights="imagenet", classes=2, auxiliary=False, seed=0, note=print
    )
    assert record.kind == "pretrained"
    module.to(memory_format=torch.channels_last)
    augment = Augment(PAPER.transform, 224, backbone.mean, backbone.std)
    images = splits["test"].batch(torch.arange(64), torch.device("cpu"))
    crops = augment.crop(images, View())
    prepare(module, backbone, STAGE)
    set_train_mode(module, STAGE)
    trunk = cut(module, backbone.logits, augment.normalize(crops[:2])).trunk
    plain = nn.Sequential(augment.normalize, trunk)
    made = plain if joint else InferenceForms(precision, augment.normalize).make(trunk, crops[:2])
    with torch.no_grad(), autocast(images.device, precision):
        (features,) = made(crops)
    events: list[object] = []
    trainer = Trainer(module, backbone, augment, splits, 0, images.device, precision, events.append)
    with monkeypatch.context() as patch:
        if joint:
            patch.setattr(stages, "cut", refuse)
        trainer.run_stage(STAGE, 0)
    (result,) = (event for event in events if isinstance(event, StageResult))
    assert result.execution["training"] == ("whole network" if joint else "head on features")
    logits = torch.from_numpy(next(one.logits for one in result.predictions if one.split == "test"))
    accuracy = float((logits.argmax(1) == splits["test"].labels).float().mean())
    return _Trained(features.float(), logits, accuracy)


@pytest.mark.slow
def test_how_far_features_logits_and_accuracy_move(splits: dict[str, Split], monkeypatch: pytest.MonkeyPatch) -> None:
    reference = _train(splits, "fp32", monkeypatch, joint=True)
    assert reference.accuracy > 0.7, "a head that learnt nothing proves nothing"
    moved = {}
    for precision in ("fp32", "bf16"):
        fast = _train(splits, precision, monkeypatch, joint=False)
        moved[precision] = {
            "features": float((fast.features - reference.features).norm() / reference.features.norm()),
            "logits": float((fast.logits - reference.logits).norm() / reference.logits.norm()),
            "predictions": int((fast.logits.argmax(1) != reference.logits.argmax(1)).sum()),
            "accuracy": abs(fast.accuracy - reference.accuracy) * TEST,
        }
    print(reference.accuracy, moved)
    assert moved["fp32"]["features"] < 1e-5
    assert moved["fp32"]["logits"] < 1e-4
    assert moved["fp32"]["predictions"] == 0
    # bf16 has 8 bits for a number; this network, made for integers, needs more of them than ResNet18 does
    assert 1e-3 < moved["bf16"]["features"] < 0.2
    assert moved["bf16"]["logits"] < 0.3
    assert moved["bf16"]["predictions"] <= 0.05 * TEST
    assert moved["bf16"]["accuracy"] <= 0.03 * TEST
