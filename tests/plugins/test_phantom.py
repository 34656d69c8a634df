from __future__ import annotations

import hashlib

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from harness.engine.weights import load_weights
from harness_efficientnet_lite import EfficientNetLite0
from harness_plugins.datasets.phantom import Phantom


def _load(**options: int):
    return Phantom().load("phantom", Phantom.Options(**options))


def test_sizes_classes_and_groups() -> None:
    splits = _load(train=40, val=16, test=24)
    assert [len(refs) for refs in splits.named().values()] == [40, 16, 24]
    assert splits.classes == ("normal", "opacity")
    groups = [{ref.group for ref in refs} for refs in splits.named().values()]
    assert not groups[0] & groups[1]
    assert not (groups[0] | groups[1]) & groups[2]
    assert Phantom.synthetic


def test_images_are_a_function_of_the_seed() -> None:
    assert _load(train=16, val=8, test=8).fingerprint == _load(train=16, val=8, test=8).fingerprint
    assert _load(train=16, val=8, test=8).fingerprint != _load(train=16, val=8, test=8, seed=1).fingerprint


def test_pixels_are_the_same_on_every_machine() -> None:
    splits = _load(train=8, val=8, test=8)
    (image,) = splits.images.read([splits.train[0].id])
    assert (image.size, image.mode) == ((224, 224), "L")
    assert hashlib.sha256(image.tobytes()).hexdigest() == splits.train[0].sha256
    assert splits.train[0].sha256.startswith("659fb0ea1f3a93f0")


def test_pretrained_features_tell_the_classes_apart_and_brightness_does_not() -> None:
    splits = _load(train=128, val=8, test=96)
    backbone = EfficientNetLite0()
    module = backbone.architecture(auxiliary=False)
    load_weights(module, backbone, "efficientnet_lite0", "imagenet", print)
    module.reset_classifier(0)

    def read(refs):
        return np.stack([np.asarray(image) for image in splits.images.read([ref.id for ref in refs])])

    def features(images):
        values = torch.from_numpy(images)[:, None].expand(-1, 3, -1, -1).float() / 127.5 - 1
        with torch.inference_mode():
            return torch.cat([module.eval()(batch) for batch in values.split(32)]).numpy()

    train, test = read(splits.train), read(splits.test)
    labels, truth = ([ref.label for ref in refs] for refs in (splits.train, splits.test))
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    assert probe.fit(features(train), labels).score(features(test), truth) > 0.65
    brightness = make_pipeline(StandardScaler(), LogisticRegression())
    means = [images.mean(axis=(1, 2))[:, None] for images in (train, test)]
    assert brightness.fit(means[0], labels).score(means[1], truth) < 0.7
