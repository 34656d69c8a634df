"""Faster forms compute what the network computes, on grey and on coloured images."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from harness import registry
from harness.api import Backbone
from harness.config import Precision
from harness.data.augment import Normalize
from harness.engine.device import autocast, emulates
from harness.engine.forms import InferenceForms
from harness.engine.layers import Convolution, Levels, MaxPool
from harness.engine.model import build

NORMALIZE = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
EMULATES = emulates(torch.device("cpu"), "bf16")
PRECISIONS = [
    "fp32",
    pytest.param("bf16", marks=pytest.mark.skipif(EMULATES, reason="this CPU has no instructions for bf16")),
]


def _images(channels: int, size: int = 224) -> Tensor:
    """Return six smooth uint8 images that reach black and white."""
    coarse = torch.rand(6, channels, 7, 7, generator=torch.Generator().manual_seed(0))
    fine = F.interpolate(coarse, (size, size), mode="bilinear")
    return ((fine - fine.min()) / (fine.max() - fine.min()) * 255).round().to(torch.uint8)


def _compute(module: nn.Module, images: Tensor, precision: Precision) -> Tensor:
    with torch.no_grad(), autocast(images.device, precision):
        return module(images).float()


def _has(form: nn.Module, kind: type[nn.Module]) -> bool:
    return any(isinstance(layer, kind) for layer in form.modules())


def _apart(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["alexnet", "googlenet", "resnet18", "efficientnet_lite0"])
def test_forms_of_the_backbones_differ_by_rounding(name: str, channels: int, precision: Precision) -> None:
    backbone = registry.load(registry.find("backbone", name), Backbone)
    weights = "imagenet" if name == "efficientnet_lite0" else "random"
    module, _ = build(backbone, name, weights=weights, classes=10, auxiliary=False, seed=0, note=print)
    images = _images(channels, backbone.input_size)
    expected = _compute(module.eval(), NORMALIZE(images), "fp32")
    before = {key: value.clone() for key, value in module.state_dict().items()}
    most = 1e-5 if precision == "fp32" else 0.15 if name == "efficientnet_lite0" else 0.02
    forms = InferenceForms(precision, NORMALIZE)
    form = forms.make(module, images)
    assert forms.fused
    found = _compute(form, images, precision)
    assert _apart(found, expected) < most, precision
    assert _apart(_compute(form, images[:3], precision), found[:3]) < 0.1 * most, "whatever the batch"
    assert _has(form, Convolution)
    assert _has(form, Levels) == (channels == 1)
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


class _Network(nn.Module):
    """Pools without a ReLU before, and looks at the image in some way."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.convolution = nn.Conv2d(3, 8, 3, padding=1)
        self.again = nn.Conv2d(8, 8, 1)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        if self.way == "not in a line":
            images = images * images
        made = self.convolution(images)
        if self.way == "beside":
            made = made + images.mean(1, keepdim=True)
        made = self.pool(F.relu(made) if self.way == "relu" else made)
        made = self.again(made)
        if self.way == "twice":
            made = F.relu(made)
            made = -self.again(made)
        return self.head(made.amax((2, 3)))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("way", "grey"), [("plain", True), ("relu", True), ("twice", True), ("beside", False), ("not in a line", False)]
)
def test_only_what_may_be_is_changed(way: str, grey: bool, precision: Precision) -> None:
    torch.manual_seed(0)
    module = _Network(way).eval()
    images = _images(1, 64)
    expected = _compute(module, NORMALIZE(images), "fp32")
    most = 1e-5 if precision == "fp32" else 0.02
    forms = InferenceForms(precision, NORMALIZE)
    form = forms.make(module, images)
    assert forms.fused
    assert _apart(_compute(form, images, precision), expected) < most
    assert _has(form, Levels) == grey
    assert _has(form, MaxPool) == (way == "relu")


@pytest.mark.parametrize("size", [(15, 15), (14, 9), (3, 7), (2, 3)])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("stride", [None, 1, 2, (3, 2)])
@pytest.mark.parametrize("kernel", [2, (2, 3), 3])
@pytest.mark.parametrize("ceil", [False, True])
def test_pooling_of_integers_gives_the_same_bits(
    size: tuple[int, int], padding: int, stride: object, kernel: object, ceil: bool
) -> None:
    values = torch.randn(4, 8, *size, generator=torch.Generator().manual_seed(0)).relu().bfloat16()
    values = values.contiguous(memory_format=torch.channels_last)
    values[0, 0] = 0
    values[1, 0, 1, 2] = torch.inf
    values[2, 1, 1, 1] = torch.nan
    values[3, 1, 1, 1] = -torch.nan
    pool = nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil)  # type: ignore[arg-type]
    if size == (2, 3) and not padding and kernel == 3:
        pytest.skip("the window is larger than the image")
    found = MaxPool(pool)(values)
    assert torch.equal(found.isnan(), pool(values).isnan())
    assert torch.equal(found.nan_to_num(), pool(values).nan_to_num())
    torch.testing.assert_close(MaxPool(pool)(values.float()), pool(values.float()), rtol=0, atol=0, equal_nan=True)
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_network_that_has_diverged_since_does_not_look_healthy(precision: Precision) -> None:
    module, images = _Network("relu").eval(), _images(1, 64)
    forms = InferenceForms(precision, NORMALIZE)
    forms.make(module, images)
    nn.init.constant_(module.convolution.weight, torch.nan)
    assert _compute(forms.make(module, images), images, precision).isnan().all()
    assert forms.fused


@pytest.mark.skipif(not EMULATES, reason="this CPU has instructions for bf16")
def test_a_network_in_emulated_bf16_is_used_itself() -> None:
    module, images = _Network("relu").eval(), _images(1, 64)
    forms = InferenceForms("bf16", NORMALIZE)
    found = _compute(forms.make(module, images), images, "bf16")
    assert torch.equal(found, _compute(module, NORMALIZE(images), "bf16"))
    assert forms.because == "this CPU has no instructions for bf16"


class _Chooses(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16))

    def forward(self, values: Tensor) -> Tensor:
        return self.layers(values) if values.mean() > 0 else -values


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_network_without_a_graph_is_not_fused_and_computes_the_same(precision: Precision) -> None:
    module, images = _Chooses().eval(), _images(1, 16)
    forms = InferenceForms(precision, NORMALIZE)
    made = forms.make(module, images)
    assert forms.fused is False
    assert "symbolically traced variables cannot be used" in forms.because
    found = _compute(made, images, precision)
    torch.testing.assert_close(found, _compute(module, NORMALIZE(images), precision))
    assert all(parameter.dtype == torch.float32 for parameter in module.parameters())


class _Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, 8)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        return self.head(self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(1))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_layers_inside_of_layers_stay_the_networks_own(precision: Precision) -> None:
    module, images = _Attends().eval(), _images(1, 64)
    before = dict(module.named_parameters())
    forms = InferenceForms(precision, NORMALIZE)
    form = forms.make(module, images)
    assert forms.fused
    after = dict(module.named_parameters())
    assert all(after[name] is parameter for name, parameter in before.items())
    assert all(parameter.dtype == torch.float32 for parameter in after.values())
    assert _apart(_compute(form, images, precision), _compute(module, NORMALIZE(images), "fp32")) < 0.02


class _Keeps(nn.Module):
    """Keeps what it made, which cannot be copied, and whose graph cannot be read."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 5, 3)

    def forward(self, images: Tensor) -> Tensor:
        self.kept = self.layer(images)
        return self.kept.mean((2, 3)) if images.sum() else self.kept


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_network_that_cannot_be_copied_is_used_itself(precision: Precision) -> None:
    module, images = _Keeps(), _images(1, 16)
    module(NORMALIZE(images))
    form = InferenceForms(precision, NORMALIZE).make(module, images)
    assert torch.equal(_compute(form, images, precision), _compute(module, NORMALIZE(images), precision))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_convolution_of_two_norms_and_a_dilated_pool_stay(precision: Precision) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.norm, self.other = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
            self.pool = nn.MaxPool2d(3, 1, 1, dilation=2)

        def forward(self, images: Tensor) -> Tensor:
            made = F.relu(self.norm(self.layer(images)))
            return self.pool(F.relu(self.other(self.layer(made)))).mean((2, 3))

    torch.manual_seed(0)
    module, images = Twice(), _images(1, 32)
    for _ in range(3):
        module(NORMALIZE(images))
    expected = _compute(module.eval(), NORMALIZE(images), "fp32")
    most = 1e-5 if precision == "fp32" else 0.02
    forms = InferenceForms(precision, NORMALIZE)
    assert _apart(_compute(forms.make(module, images), images, precision), expected) < most
    assert forms.fused


def test_a_form_that_computes_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    module, images = _Network("relu").eval(), _images(1, 64)
    wrong = copy.deepcopy(module)
    nn.init.zeros_(wrong.head.weight)
    monkeypatch.setattr("harness.engine.forms._fuse", lambda *_arguments: nn.Sequential(NORMALIZE, wrong))
    forms = InferenceForms("fp32", NORMALIZE)
    made = forms.make(module, images)
    assert forms.fused is False
    assert torch.equal(_compute(made, images, "fp32"), _compute(module, NORMALIZE(images), "fp32"))
    assert forms.because == "its graph computes something else than the network"


def test_want_of_memory_is_not_taken_for_a_graph_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def fuse(*_arguments: object) -> nn.Module:
        raise MemoryError

    monkeypatch.setattr("harness.engine.forms._fuse", fuse)
    with pytest.raises(MemoryError):
        InferenceForms("fp32", NORMALIZE).make(_Network("relu"), _images(1, 64))
