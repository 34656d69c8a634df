from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torchvision.transforms import RandomResizedCrop, v2

from harness.api import Transform
from harness.data.augment import Augment, sample_crops

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PAPER = Transform()


def _images(n: int, channels: int = 1, size: int = 64) -> torch.Tensor:
    draws = np.random.default_rng(0)
    return torch.from_numpy(draws.integers(0, 256, (n, channels, size, size), dtype=np.uint8))


@pytest.mark.parametrize(("scale", "ratio"), [((0.08, 1.0), (3 / 4, 4 / 3)), ((0.8, 1.0), (0.9, 2.0))])
def test_crops_are_distributed_as_torchvisions(scale: tuple[float, float], ratio: tuple[float, float]) -> None:
    n, size = 3000, 64
    ours = sample_crops(n, size, scale, ratio, torch.Generator().manual_seed(1)).numpy()
    torch.manual_seed(2)
    image = torch.zeros(1, size, size)
    theirs = np.array([RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(n)])
    for column in range(4):
        assert ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-3
    assert (ours[:, 0] + ours[:, 2] <= size).all()
    assert (ours[:, 1] + ours[:, 3] <= size).all()


def test_a_crop_that_never_fits_takes_the_centre() -> None:
    boxes = sample_crops(5, 100, (1.0, 1.0), (4.0, 5.0), torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    expected = RandomResizedCrop.get_params(torch.zeros(1, 100, 100), [1.0, 1.0], [4.0, 5.0])
    assert boxes.tolist() == [list(expected)] * 5


def test_pixels_are_torchvisions_for_the_same_box() -> None:
    images = _images(6)
    found = Augment(PAPER, 64, MEAN, STD).train(images, torch.Generator().manual_seed(5))
    draws = torch.Generator().manual_seed(5)
    boxes = sample_crops(6, 64, PAPER.crop_scale, PAPER.crop_ratio, draws)
    flips = torch.rand(6, generator=draws) < 0.5
    assert flips.any()
    assert not flips.all()
    for image, box, flip, value in zip(images, boxes.tolist(), flips.tolist(), found, strict=True):
        cropped = v2.functional.resized_crop(image.expand(3, -1, -1), *box, [64, 64], antialias=True)
        plain = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
        expected = plain(v2.functional.horizontal_flip(cropped) if flip else cropped)
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=0)


def test_evaluation_is_torchvisions_resize_and_centre_crop() -> None:
    images = _images(2, channels=3, size=224)
    found = Augment(PAPER, 224, MEAN, STD).evaluate(images)
    expected = v2.Compose(
        [
            v2.Resize(256, antialias=True),
            v2.CenterCrop(224),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )(images)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_without_crop_and_flip_nothing_is_drawn() -> None:
    images = _images(2)
    plain = Transform(crop="none", flip=False, evaluate="resize")
    augment = Augment(plain, 64, (0.5,) * 3, (0.5,) * 3)
    found = augment.train(images, torch.Generator())
    assert torch.equal(found, augment.evaluate(images))
    assert found.shape == (2, 3, 64, 64)
    torch.testing.assert_close(found[0, 2], images[0, 0].float() / 127.5 - 1)


def test_the_same_generator_gives_the_same_batch() -> None:
    augment = Augment(PAPER, 64, MEAN, STD)
    first, second = (augment.train(_images(4), torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, augment.train(_images(4), torch.Generator().manual_seed(8)))
