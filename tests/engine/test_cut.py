"""Where networks are cut, and where they must not be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from harness import registry
from harness.api import Backbone, Stage
from harness.engine.cut import CutError, cut
from harness.engine.forms import keep_in_bf16
from harness.engine.model import build, is_trained, prepare, set_train_mode
from harness_plugins.schedules.paper import PAPER

EVAL = PAPER.stages[0].model_copy(update={"batch_norm": "eval"})


def _images(size: int = 224) -> Tensor:
    return torch.randn(6, 3, size, size, generator=torch.Generator().manual_seed(0))


def _built(name: str, stage: Stage) -> tuple[nn.Module, Backbone]:
    backbone = registry.load(registry.find("backbone", name), Backbone)
    auxiliary = stage.auxiliary_weight > 0
    module, _ = build(backbone, name, weights="random", classes=2, auxiliary=auxiliary, seed=0, note=print)
    prepare(module, backbone, stage)
    set_train_mode(module, stage)
    return module, backbone


@pytest.mark.parametrize(
    ("name", "width"), [("alexnet", 9216), ("googlenet", 1024), ("resnet18", 512), ("efficientnet_lite0", 1280)]
)
def test_behind_the_cut_are_dropout_and_what_follows_it(name: str, width: int) -> None:
    module, backbone = _built(name, EVAL)
    images = _images(backbone.input_size)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    generator = torch.get_rng_state()
    parts = cut(module, backbone.logits, images)
    assert torch.equal(generator, torch.get_rng_state())
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    with torch.no_grad():
        features = parts.features(images)
        assert [feature.shape for feature in features] == [(6, width)]
        torch.manual_seed(1)
        expected, _ = backbone.logits(module(images))
        torch.manual_seed(1)
        found, _ = backbone.logits(parts.tail(*features))
        assert torch.equal(found, expected), "dropout draws the same"
    head = module.get_submodule(backbone.head)
    assert any(parameter is head.weight for parameter in parts.tail.parameters())


def test_heads_in_the_middle_of_a_network_are_behind_the_cut() -> None:
    module, backbone = _built("googlenet", EVAL.model_copy(update={"auxiliary_weight": 0.3}))
    images = _images()
    parts = cut(module, backbone.logits, images)
    with torch.no_grad():
        features = parts.features(images)
        assert len(features) == 3
        torch.manual_seed(1)
        expected, others = backbone.logits(module(images))
        torch.manual_seed(1)
        found, found_others = backbone.logits(parts.tail(*features))
    for one, other in zip((found, *found_others), (expected, *others), strict=True):
        assert torch.equal(one, other)


class _Network(nn.Module):
    """A body that a test replaces, and a head."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(16, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images).mean((2, 3)))


class _Draws(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values + torch.rand(values.shape[1], 1, 1)


class _Remembers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, values: Tensor) -> Tensor:
        self.seen += 1
        return values


class _Follows(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values - values.mean(0)


class _Chooses(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Identity()

    def forward(self, values: Tensor) -> Tensor:
        return self.inner(values) if values.mean() > 0 else -values


class _Differs(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values if self.training else 2 * values


class _Looks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(3, 16, 3)

    def forward(self, images: Tensor) -> Tensor:
        return (self.body(images) * self.head(images)).mean((2, 3))


class _DropsItself(nn.Module):
    """timm's way."""

    def forward(self, values: Tensor) -> Tensor:
        return F.dropout(values, 0.5, training=self.training)


def _body(*layers: nn.Module) -> nn.Module:
    return _Network(nn.Sequential(nn.Conv2d(3, 16, 3), *layers))


@pytest.mark.parametrize(
    ("module", "because"),
    [
        (_body(_Draws()), "draw at random"),
        (_body(_Remembers()), "remember"),
        (_body(_Follows()), "depends on the batch"),
        (_body(_Chooses()), "graph cannot be read"),
        (_body(_Differs()), "does not hold in evaluation"),
        (_body(_DropsItself()), "draw at random"),
        (_body(nn.BatchNorm2d(16)), "BatchNorm follows the batches"),
        (_body(nn.BatchNorm2d(16, track_running_stats=False).eval()), "BatchNorm follows the batches"),
        (_Looks(), "looks at the image itself"),
        (_Network(nn.Sequential(nn.Dropout2d(), nn.Conv2d(3, 16, 3))), "nothing in it stays as it is"),
        (_body(nn.Dropout2d(), nn.Conv2d(16, 64, 3), nn.Conv2d(64, 16, 3)), "more memory than the image"),
    ],
)
def test_what_is_no_pure_function_of_an_image_is_not_cut(module: nn.Module, because: str) -> None:
    module.requires_grad_(False)
    module.head.requires_grad_(True)
    with pytest.raises(CutError, match=because):
        cut(module, lambda output: (output, ()), _images(12))


def test_frozen_layers_behind_the_cut_give_the_same_from_bf16_copies() -> None:
    module, backbone = _built("alexnet", EVAL)
    images = _images()
    parts = cut(module, backbone.logits, images)
    names = [name for name, layer in parts.tail.named_modules() if isinstance(layer, nn.Linear)]
    with torch.autocast("cpu", torch.bfloat16):
        features = parts.features(images)
        outputs = []
        for _ in range(2):
            torch.manual_seed(1)
            outputs.append(parts.tail(*features))
            keep_in_bf16(parts.tail, but=is_trained)
    assert torch.equal(*outputs)
    kept = {name: parts.tail.get_submodule(name).weight.dtype for name in names}
    assert list(kept.values()) == [torch.bfloat16, torch.bfloat16, torch.float32]
    assert names[2] == backbone.head
    assert all(parameter.dtype == torch.float32 for parameter in module.parameters())


class _Heads(nn.Module):
    """A trained head, and a frozen one beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 16, 3)
        self.head, self.frozen = nn.Linear(16, 2), nn.Linear(16, 2)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(images).mean((2, 3))
        return self.head(features), self.frozen(features)


def _frozen(module: nn.Module) -> nn.Module:
    module.train().requires_grad_(False)
    module.get_submodule("head").requires_grad_(True)
    return module


def test_an_output_of_frozen_layers_is_handed_over() -> None:
    module, images = _frozen(_Heads()), _images(12)
    parts = cut(module, lambda output: (output[0], output[1:]), images)
    for expected, found in zip(module(images), parts.tail(*parts.features(images)), strict=True):
        assert torch.equal(expected, found)


def test_dropout_that_drops_nothing_is_before_the_cut_and_one_in_place_behind_it() -> None:
    module = _frozen(
        _body(nn.Dropout(0.0), nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 16, 1), nn.Dropout(0.5, inplace=True))
    )
    parts = cut(module, lambda output: (output, ()), _images(12))
    assert sum(isinstance(layer, nn.Conv2d) for layer in parts.trunk.modules()) == 2
    assert any(isinstance(layer, nn.Dropout) and layer.p == 0.5 for layer in parts.tail.modules())
