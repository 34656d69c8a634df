"""What stages can be told beside the paper's: by how it moves weights, and against formulas by hand."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from engine_parts import Small, trainer_on_noise
from harness import registry
from harness.api import (
    SGD,
    AdamW,
    Backbone,
    ConstantLR,
    CosineLR,
    CrossEntropy,
    ExponentialLR,
    Focal,
    LearningRate,
    OneCycleLR,
    PolynomialLR,
    Stage,
    StepLR,
    Transform,
)
from harness.engine.blocks import blocks_of
from harness.engine.rates import learning_rates
from harness.engine.stage import Trainer
from harness.engine.steps import add_noise
from harness.errors import TrainingError
from harness.results import EpochResult, Note, StageResult

STAGE = Stage(
    name="stage", epochs=3, batch_size=8, trainable="all", optimizer=SGD(momentum=0.0), lr=ConstantLR(base=0.5),
    checkpoint="last",
)  # fmt: skip


class Deep(Backbone):
    """Four blocks, of which the second ends with a BatchNorm, and a head."""

    head = "7"

    def architecture(self, *, auxiliary: bool) -> nn.Module:
        del auxiliary
        first = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Conv2d(4, 4, 3, 2), nn.BatchNorm2d(4))
        last = [nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.AvgPool2d(3), nn.Flatten()]
        return nn.Sequential(first, nn.Identity(), *last, nn.Linear(4, 2))


def _stage(**options: object) -> Stage:
    return Stage.model_validate(STAGE.model_dump() | options)


def _run(stage: Stage, backbone: Backbone | None = None) -> tuple[Trainer, list[object], list[dict[str, Tensor]]]:
    trainer, events, states = trainer_on_noise(backbone or Deep())
    trainer.run_stage(stage, 0)
    return trainer, events, states


def _moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name.rpartition(".")[0] for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (ConstantLR(base=0.3), {0: 0.3, 59: 0.3}),
        (OneCycleLR(base=0.1, max=1.0, up=0.5, last=0.01, cycle_momentum=False), {0: 0.1, 29: 1.0, 59: 0.001}),
        (CosineLR(base=1.0, min=0.2), {0: 1.0, 30: 0.6, 45: 0.6 - 0.4 * math.sqrt(0.5)}),
        (CosineLR(base=1.0, warm_up=0.5), {0: 0.01, 15: 0.505, 30: 1.0, 45: 0.5}),
        (CosineLR(base=1.0, step_every="epoch"), {0: 1.0, 9: 1.0, 10: 0.5 + 0.5 * math.cos(math.pi / 6), 30: 0.5}),
        (StepLR(base=1.0, every=2, gamma=0.1), {0: 1.0, 19: 1.0, 20: 0.1, 59: 0.01}),
        (StepLR(base=1.0, every=30, gamma=0.5, step_every="batch"), {29: 1.0, 30: 0.5}),
        (ExponentialLR(base=1.0, gamma=0.5), {9: 1.0, 10: 0.5, 59: 0.5**5}),
        (PolynomialLR(base=1.0, power=2.0), {0: 1.0, 30: 0.25, 54: 0.01}),
    ],
    ids=lambda value: value.kind if isinstance(value, LearningRate) else "",
)
def test_rates_are_those_of_the_golden_table(rule: LearningRate, expected: dict[int, float]) -> None:
    rates = learning_rates(_stage(epochs=6, lr=rule.model_dump()), 10)
    assert len(rates) == 60
    assert {step: rates[step] for step in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "first", "blocks"),
    [("alexnet", "features.0.weight", 7), ("googlenet", "conv1.conv.weight", 12), ("resnet18", "conv1.weight", 9),
     ("densenet121", "features.conv0.weight", 8), ("timm:vit_tiny_patch16_224", "cls_token", 13)],
)  # fmt: skip
def test_blocks_go_from_the_input_to_the_head(name: str, first: str, blocks: int) -> None:
    backbone = registry.load(registry.find("backbone", name), Backbone)
    module = backbone.architecture(auxiliary=False)
    found = blocks_of(module, backbone)
    assert len(found) == blocks
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    in_order = [names.pop(id(parameter)) for block in found for parameter in block]
    assert first in in_order[:3]
    assert all(left.startswith(f"{backbone.head}.") for left in names.values())


@pytest.mark.parametrize(
    ("trainable", "moved"),
    [("head", {"7"}), (1, {"4", "7"}), (2, {"2", "4", "7"}), (3, {"0.1", "0.2", "2", "4", "7"}),
     ("all", {"0.0", "0.1", "0.2", "2", "4", "7"})],
)  # fmt: skip
def test_the_head_and_the_last_blocks_are_trained(trainable: str | int, moved: set[str]) -> None:
    trainer, _, _ = trainer_on_noise(Deep())
    before = copy.deepcopy(trainer.module.state_dict())
    trainer.run_stage(_stage(trainable=trainable, batch_norm="eval"), 0)
    assert _moved(before, trainer.module.state_dict()) == moved


def test_more_blocks_than_there_are_is_an_error() -> None:
    with pytest.raises(TrainingError, match=r"stage trains 5 blocks .* this network has 4"):
        _run(_stage(trainable=4, unfreeze_at=(2,)))


def test_the_last_blocks_train_on_features_of_the_others_as_on_images() -> None:
    stage = _stage(trainable=2, batch_norm="eval")
    _, events, _ = _run(stage)
    _, others, _ = _run(_stage(trainable=2, batch_norm="eval", unfreeze_at=(3,)))
    (result,), (other,) = ([event for event in of if isinstance(event, StageResult)] for of in (events, others))
    assert result.execution["training"] == "last blocks on features"
    assert other.execution["because"] == "layers are unfrozen on the way"
    losses, of_joint = ([event.train_loss for event in of if isinstance(event, EpochResult)] for of in (events, others))
    assert losses[:2] == pytest.approx(of_joint[:2], rel=1e-5)
    assert losses[2] != of_joint[2]


def test_blocks_are_unfrozen_at_their_epochs() -> None:
    trainer, _, states = trainer_on_noise(Deep())
    before = copy.deepcopy(trainer.module.state_dict())
    trainer.run_stage(_stage(trainable="head", unfreeze_at=(2, 3), batch_norm="eval"), 0)
    moved = [_moved(first, second) for first, second in zip([before, *states], states, strict=False)]
    assert moved == [{"7"}, {"4", "7"}, {"2", "4", "7"}]


def test_blocks_learn_at_rates_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[list[float]] = []
    step = torch.optim.SGD.step
    monkeypatch.setattr(
        torch.optim.SGD, "step", lambda self: rates.append([group["lr"] for group in self.param_groups]) or step(self)
    )
    _run(_stage(lr_decay=0.1, lr=StepLR(base=1.0, every=1, gamma=0.5).model_dump()))
    of_network = [of for of in rates if len(of) > 1]
    assert of_network[0] == pytest.approx([1, 0.1, 0.01, 0.001, 0.0001])
    assert of_network[-1] == pytest.approx([0.25, 0.025, 0.0025, 0.00025, 0.000025])


def _weights_after_each_step(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    found: list[Tensor] = []
    step = torch.optim.SGD.step

    def watched(self: torch.optim.SGD) -> None:
        step(self)
        weight = self.param_groups[0]["params"][0]
        if weight.ndim == 4:
            found.append(weight.detach().clone())

    monkeypatch.setattr(torch.optim.SGD, "step", watched)
    return found


def test_an_exponential_average_is_what_is_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    after_steps = _weights_after_each_step(monkeypatch)
    begin, _, _ = trainer_on_noise(Deep())
    expected = begin.module.get_parameter("0.0.weight").detach().clone()
    trainer, events, states = _run(_stage(ema=0.7))
    for weights in after_steps:
        expected = 0.7 * expected + 0.3 * weights
    assert torch.allclose(trainer.module.get_parameter("0.0.weight"), expected, atol=1e-6)
    assert not torch.allclose(states[-1]["0.0.weight"], expected, atol=1e-4)
    _, plain, _ = _run(_stage())
    (averaged, own) = ([event for event in of if isinstance(event, EpochResult)] for of in (events, plain))
    assert [epoch.train_loss for epoch in averaged] == [epoch.train_loss for epoch in own]
    assert [epoch.val_loss for epoch in averaged] != [epoch.val_loss for epoch in own]


def test_a_plain_average_of_epochs_gets_statistics_of_its_own() -> None:
    trainer, _, states = _run(_stage(swa=2, epochs=4))
    module, weight = trainer.module, "0.0.weight"
    expected = torch.stack([state[weight] for state in states[1:]]).mean(0)
    assert torch.allclose(module.get_parameter(weight), expected, atol=1e-6)
    plan = trainer._plan(_stage(swa=2, epochs=4), 4)
    with torch.no_grad():
        seen = [module[0][:2](inputs).mean((0, 2, 3)) for inputs in trainer._augmented(plan, 8)]
    assert torch.allclose(module[0][2].running_mean, torch.stack(seen).mean(0), atol=1e-5)


def test_a_stage_ends_where_nothing_gets_better() -> None:
    stage = _stage(epochs=30, patience=3, lr=ConstantLR(base=1e-9).model_dump(), batch_norm="eval", checkpoint="best")
    _, events, _ = _run(stage)
    epochs = [event for event in events if isinstance(event, EpochResult)]
    best = max(epochs, key=lambda epoch: (epoch.val_accuracy, -epoch.val_loss, -epoch.epoch))
    assert len(epochs) == best.epoch + 3 < 30
    said = [event.text for event in events if isinstance(event, Note)]
    assert f"stage ends after epoch {len(epochs)}: no better one for 3 epochs" in said


@pytest.mark.parametrize("step", [0, 99])
def test_noise_on_gradients_has_the_variance_of_the_paper(step: int) -> None:
    torch.manual_seed(0)
    parameter, frozen = nn.Parameter(torch.zeros(100_000)), nn.Parameter(torch.zeros(3))
    parameter.grad = torch.full_like(parameter, 2.0)
    add_noise([parameter, frozen], 0.3, step)
    assert float(parameter.grad.mean()) == pytest.approx(2, abs=0.02)
    assert float(parameter.grad.var()) == pytest.approx(0.3 / (1 + step) ** 0.55, rel=0.03)
    assert frozen.grad is None


def test_focal_loss_is_its_formula() -> None:
    logits, labels = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 3
    weights = torch.tensor([1.0, 2.0, 3.0])
    of_truth = logits.softmax(1).gather(1, labels[:, None])[:, 0]
    expected = ((1 - of_truth) ** 2 * -of_truth.log() * weights[labels]).sum() / weights[labels].sum()
    assert torch.allclose(Focal().make(weights)(logits, labels), expected)
    same = F.cross_entropy(logits, labels, weight=weights)
    assert torch.allclose(Focal(gamma=0).make(weights)(logits, labels), same)
    smooth = F.cross_entropy(logits, labels, label_smoothing=0.1)
    assert torch.equal(CrossEntropy(label_smoothing=0.1).make(None)(logits, labels), smooth)


class TrainsItself(Small):
    """A network that puts itself into train mode."""

    def architecture(self, *, auxiliary: bool) -> nn.Module:
        module = super().architecture(auxiliary=auxiliary)
        module.register_forward_pre_hook(lambda network, _inputs: network.train() and None)
        return module


def test_nobody_undoes_that_statistics_are_left_alone() -> None:
    trainer, _, _ = trainer_on_noise(TrainsItself())
    before = copy.deepcopy(trainer.module.state_dict())
    trainer.run_stage(_stage(batch_norm="eval"), 0)
    assert torch.equal(trainer.module.state_dict()["1.running_mean"], before["1.running_mean"])
    assert not trainer.module[1]._forward_pre_hooks


@pytest.mark.parametrize("trainable", ["head", "all"])
@pytest.mark.parametrize(("views", "number"), [("flip", 2), ("five-crop", 5), ("ten-crop", 10)])
def test_of_several_views_mean_probabilities_count(views: str, number: int, trainable: str) -> None:
    transform = Transform(views=views)
    trainer, events, _ = trainer_on_noise(Deep(), transform=transform)
    trainer.run_stage(_stage(trainable=trainable, batch_norm="eval", lr=ConstantLR(base=0.05).model_dump()), 0)
    (result,) = (event for event in events if isinstance(event, StageResult))
    found = torch.from_numpy(result.predictions[1].logits).softmax(1)
    images = trainer.splits["test"].images.permute(0, 3, 1, 2)
    assert len(set(trainer.augment.views)) == number
    trainer.module.eval()
    with torch.no_grad():
        of_views = [trainer.module(trainer.augment.inputs(images, view)).softmax(1) for view in trainer.augment.views]
    assert torch.allclose(found, torch.stack(of_views).mean(0), atol=1e-5)
    assert not torch.allclose(found, of_views[0], atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unfreeze_at": (2,)}, "trainable is all already"),
        ({"trainable": "head", "unfreeze_at": (3, 2)}, "should be rising epochs"),
        ({"trainable": "head", "unfreeze_at": (2, 9)}, "unfreeze_at names epoch 9, and there are 3"),
        ({"swa": 4}, "swa names epoch 4, and there are 3"),
        ({"swa": 2, "ema": 0.9}, "by ema or by swa"),
        ({"lr": {"kind": "cosine", "min": 1.0, "base": 0.1}}, "must be at most base"),
        ({"lr": {"kind": "one-cycle"}, "optimizer": AdamW().model_dump()}, "needs an optimizer with momentum"),
        ({"loss": {"kind": "hinge"}}, "no loss plugin is called 'hinge'"),
    ],
)
def test_what_does_not_fit_together_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _stage(**options)


def test_a_layer_that_stands_in_two_places_is_trained_once() -> None:
    shared = nn.Linear(4, 4)
    module = nn.Sequential(shared, nn.ReLU(), nn.Sequential(shared, nn.Linear(4, 4)), nn.Linear(4, 2))

    class Twice(Backbone):
        head = "3"

        def architecture(self, *, auxiliary: bool) -> nn.Module:
            return module

    found = [parameter for block in blocks_of(module, Twice()) for parameter in block]
    assert len(found) == len(set(map(id, found))) == 4


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_has_a_slope_where_an_image_is_surely_right(gamma: float) -> None:
    logits = torch.tensor([[40.0, 0.0], [0.3, 0.1]], requires_grad=True)
    loss = Focal(gamma=gamma).make(None)(logits, torch.tensor([0, 1]))
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    p = logits.detach().softmax(dim=1)[1, 1]
    assert loss.item() == pytest.approx(float(-(p.log()) * (1 - p) ** gamma) / 2, rel=1e-5)


@pytest.mark.parametrize(("up", "steps"), [(0.1, 10), (0.5, 2), (0.2, 5)])
def test_one_cycle_may_rise_within_one_step(up: float, steps: int) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.01, momentum=0.9)
    scheduler = OneCycleLR(base=0.01, max=0.1, up=up).scheduler(optimizer, steps)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step() if len(rates) < steps else None
    assert all(0 < rate <= 0.1 + 1e-9 for rate in rates)
