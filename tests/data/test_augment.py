from __future__ import annotations

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torchvision.transforms import RandomResizedCrop, v2

from harness.api import Transform
from harness.data.augment import Augment, Draws, sample_crops

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


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_torchvisions_for_the_same_box(channels: int) -> None:
    """Up to a level or two of 256, by which torchvision's own uint8 kernel and Pillow differ in some pixels."""
    images = _images(6, channels)
    augment = Augment(PAPER, 64, MEAN, STD)
    draws = augment.draw(6, torch.Generator().manual_seed(5))
    assert draws.boxes is not None
    assert draws.flips is not None
    assert draws.flips.any()
    assert not draws.flips.all()
    found = augment.inputs(images, draws)
    assert found.is_contiguous(memory_format=torch.channels_last)
    plain = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
    expected = []
    for image, box, flip in zip(images, draws.boxes.tolist(), draws.flips.tolist(), strict=True):
        cropped = v2.functional.resized_crop(image.expand(3, -1, -1), *box, [64, 64], antialias=True)
        expected.append(plain(v2.functional.horizontal_flip(cropped) if flip else cropped))
    _same_pixels(found, torch.stack(expected))


def _same_pixels(found: torch.Tensor, expected: torch.Tensor) -> None:
    levels = (found - expected).abs() * torch.tensor(STD).view(3, 1, 1) * 255
    assert levels.max() < 2.01
    assert levels.mean() < 0.1


GPU_PIXELS = """
import sys
import torch
from harness.data.augment import resample, sample_crops
from harness.data.resample import resample_on_gpu
device = torch.device(sys.argv[1])
n, side = 3, 64  # the interpreter is slow
flips = torch.arange(n) % 2 == 0
for channels in (1, 3):
    for beyond in (False, True):
        for size in (side * 3 // 4, side, side + 11):  # of the result
            draws = torch.Generator().manual_seed(size)
            images = torch.randint(0, 256, (n, side, side, channels), dtype=torch.uint8, generator=draws)
            images = images.permute(0, 3, 1, 2)
            boxes = sample_crops(n, side, (0.08, 1.0), (3 / 4, 4 / 3), draws)
            if beyond:
                boxes = boxes + torch.tensor([0.25, 0.5, -0.25, -0.75])
            made = resample_on_gpu(images.to(device), boxes, flips, size, beyond).cpu()
            expected = resample(images, boxes, size, flips, beyond=beyond)
            assert made.stride() == expected.stride()
            apart = (made.int() - expected).abs()
            most, mean = (1, 0.001) if size == side else (2, 0.2)
            assert apart.max() <= most and apart.float().mean() < mean, (channels, beyond, size)
"""


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_gpus_kernel_makes_pillows_pixels(device: str) -> None:
    """On a CPU, Triton's interpreter executes the kernel's code."""
    interpreted = {"TRITON_INTERPRET": "1"} if device == "cpu" else {}
    command = [sys.executable, "-c", GPU_PIXELS, device]
    done = subprocess.run(command, env={**os.environ, **interpreted}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("size", [64, 100, 224, 299])
def test_evaluation_is_torchvisions_resize_and_centre_crop(size: int) -> None:
    images = _images(2, channels=3, size=size)
    found = Augment(PAPER, size, MEAN, STD).inputs(images)
    expected = v2.Compose(
        [
            v2.Resize(round(size * 256 / 224), antialias=True),
            v2.CenterCrop(size),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )(images)
    _same_pixels(found, expected)


@pytest.mark.parametrize("views", ["flip", "five-crop", "ten-crop"])
def test_views_are_torchvisions(views: str) -> None:
    images = _images(2, channels=3, size=100)
    augment = Augment(Transform(views=views), 100, MEAN, STD)
    larger = v2.Resize(round(100 * 256 / 224), antialias=True)(images)
    normalize = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
    centre = v2.CenterCrop(100)(larger)
    of_torchvision = {
        "flip": lambda: (centre, centre.flip(3)),
        "five-crop": lambda: v2.FiveCrop(100)(larger),
        "ten-crop": lambda: v2.TenCrop(100)(larger),
    }[views]()
    found = [augment.inputs(images, view) for view in augment.views]
    assert len(found) == len(of_torchvision)
    for expected in map(normalize, of_torchvision):
        apart = [float((one - expected).abs().max()) for one in found]
        nearest = apart.index(min(apart))
        _same_pixels(found.pop(nearest), expected)


def test_a_view_of_the_whole_image_may_be_flipped() -> None:
    images = _images(2)
    augment = Augment(Transform(views="flip", evaluate="resize"), 64, MEAN, STD)
    plain, flipped = (augment.inputs(images, view) for view in augment.views)
    assert torch.equal(plain.flip(3), flipped)


def test_strength_is_a_way_from_the_whole_image_to_what_is_set() -> None:
    def drawn(strength: float) -> Draws:
        augment = Augment(Transform(strength=strength), 1000, MEAN, STD)
        return augment.draw(2000, torch.Generator().manual_seed(0))

    none, half, full = map(drawn, (0.0, 0.5, 1.0))
    assert none.tensors() == ()
    boxes = half.boxes[:, 2] * half.boxes[:, 3] / 1e6
    assert 0.53 < float(boxes.min()) < 0.6
    ratios = half.boxes[:, 3] / half.boxes[:, 2]
    assert float(ratios.max()) == pytest.approx(math.sqrt(4 / 3), abs=0.02)
    assert float(half.flips.double().mean()) == pytest.approx(0.25, abs=0.04)
    assert float((full.boxes[:, 2] * full.boxes[:, 3]).min()) < 0.1e6
    assert float(full.flips.double().mean()) == pytest.approx(0.5, abs=0.04)


def test_without_crop_and_flip_nothing_is_drawn() -> None:
    images = _images(2)
    plain = Transform(crop="none", flip=False, evaluate="resize")
    augment = Augment(plain, 64, (0.5,) * 3, (0.5,) * 3)
    draws = augment.draw(2, torch.Generator())
    assert (draws.boxes, draws.flips) == (None, None)
    found = augment.inputs(images, draws)
    assert torch.equal(found, augment.inputs(images))
    assert found.shape == (2, 3, 64, 64)
    torch.testing.assert_close(found[0, 2], images[0, 0].float() / 127.5 - 1)


def test_what_is_drawn_follows_the_image_into_any_batch() -> None:
    augment = Augment(PAPER, 64, MEAN, STD)
    images, draws = _images(8), augment.draw(8, torch.Generator().manual_seed(7))
    rows = torch.tensor([6, 1, 3])
    assert torch.equal(augment.inputs(images, draws)[rows], augment.inputs(images[rows], draws[rows]))
    other = augment.draw(8, torch.Generator().manual_seed(8))
    assert not torch.equal(augment.inputs(images, draws), augment.inputs(images, other))
