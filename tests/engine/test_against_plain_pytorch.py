"""The engine computes what a loop in bare PyTorch with torchvision's own network computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from harness.api import Backbone, ConstantLR, CyclicLR, Stage
from harness.data.augment import Augment
from harness.engine.batches import Split, move
from harness.engine.model import build
from harness.engine.seeds import generator, seed_for
from harness.engine.stage import Trainer
from harness_plugins.backbones.torchvision import AlexNet, GoogLeNet, ResNet18
from harness_plugins.schedules.paper import PAPER

SEED = 3
TRAIN, VAL, BATCH, EPOCHS = 16, 4, 4, 2
PLAIN = {
    "alexnet": lambda: torchvision.models.alexnet(weights=None),
    "googlenet": lambda: torchvision.models.googlenet(
        weights=None, aux_logits=False, transform_input=True, init_weights=False
    ),
    "resnet18": lambda: torchvision.models.resnet18(weights=None),
}
BACKBONES: dict[str, Backbone] = {"alexnet": AlexNet(), "googlenet": GoogLeNet(), "resnet18": ResNet18()}


def _split(n: int, seed: int) -> Split:
    # smooth blobs, brighter for class 1, so that there is something to learn
    draws = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    coarse = draws.uniform(40, 140, (n, 8, 8)) + 60 * labels[:, None, None]
    images = coarse.repeat(28, axis=1).repeat(28, axis=2)[..., None]
    return Split(torch.from_numpy(images.astype(np.uint8)), torch.from_numpy(labels))


def _stages(batch_norm: str, finetune_rate: float) -> tuple[Stage, Stage]:
    frozen, finetune = PAPER.stages
    common = {
        "epochs": EPOCHS,
        "batch_size": BATCH,
        "batch_norm": batch_norm,
        "checkpoint": "last",
        "start_from": "last",
    }
    # three steps up: the rate turns round inside the test
    return (
        frozen.model_copy(update={**common, "lr": CyclicLR(base=0.001, max=0.01, step_size_up=3)}),
        finetune.model_copy(update={**common, "lr": ConstantLR(base=finetune_rate)}),
    )


def _plain_head(name: str, model: nn.Module) -> nn.Linear:
    return model.classifier[6] if name == "alexnet" else model.fc


def _plain_stage(
    name: str,
    model: nn.Module,
    stage: Stage,
    augment: Augment,
    train: Split,
    layout: torch.memory_format,
    device: str,
) -> None:
    """The loop of the PyTorch transfer-learning tutorial, written out."""
    head = _plain_head(name, model)
    for parameter in model.parameters():
        parameter.requires_grad = stage.trainable == "all"
    for parameter in head.parameters():
        parameter.requires_grad = True
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    fused = layout == torch.channels_last  # see below
    optimizer = torch.optim.SGD(trained, lr=stage.lr.base, momentum=0.9, fused=fused)
    scheduler = None
    if isinstance(stage.lr, CyclicLR):
        scheduler = torch.optim.lr_scheduler.CyclicLR(
            optimizer, base_lr=stage.lr.base, max_lr=stage.lr.max, step_size_up=stage.lr.step_size_up
        )
    for epoch in range(1, stage.epochs + 1):
        model.train()
        if stage.batch_norm == "eval":
            for layer in model.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.eval()
        torch.manual_seed(seed_for(SEED, stage.name, "network", epoch))
        draws = augment.draw(TRAIN, generator(SEED, stage.name, "augment", epoch))
        order = torch.randperm(TRAIN, generator=generator(SEED, stage.name, "order", epoch))
        for indices in order.split(BATCH):
            images = augment.inputs(train.images[indices].permute(0, 3, 1, 2).to(device), draws[indices])
            labels = train.labels[indices].to(device)
            loss = nn.functional.cross_entropy(model(images.contiguous(memory_format=layout)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if scheduler is not None:
                scheduler.step()


# In the engine's own memory layout, with its fused optimiser, the arithmetic is the same, so even where every layer
# moves far nothing tells them apart. Bare PyTorch's defaults, and a head trained on features of fused layers, sum in
# another order, which a deep network amplifies: there the paper's own rate is the test.
@pytest.mark.parametrize(
    ("name", "batch_norm", "layout", "finetune_rate"),
    [
        ("alexnet", "train", "channels_last", 1e-5),
        pytest.param(*("alexnet", "train", "contiguous_format", 1e-5), marks=pytest.mark.slow),
        ("googlenet", "train", "channels_last", 1e-3),
        pytest.param(*("googlenet", "eval", "contiguous_format", 1e-5), marks=pytest.mark.slow),
        ("resnet18", "train", "channels_last", 1e-3),
        pytest.param(*("resnet18", "train", "contiguous_format", 1e-5), marks=pytest.mark.slow),
        ("resnet18", "eval", "contiguous_format", 1e-5),
    ],
)
def test_both_stages_equal_a_bare_loop(
    name: str, batch_norm: str, layout: str, finetune_rate: float, device: str
) -> None:
    backbone = BACKBONES[name]
    memory_format = getattr(torch, layout)
    ours, _ = build(backbone, name, weights="random", classes=2, auxiliary=False, seed=SEED, note=print)
    torch.manual_seed(SEED)
    for layer in ours.modules():  # features of a healthy size, as pretrained weights give
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer is not ours.get_submodule(backbone.head):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the plain average: one pass settles the statistics
    splits = {"train": _split(TRAIN, 0), "val": _split(VAL, 1), "test": _split(VAL, 2)}
    augment = Augment(PAPER.transform, 224, backbone.mean, backbone.std)
    with torch.no_grad():
        ours.train()(augment.inputs(splits["train"].images.permute(0, 3, 1, 2)))
    for layer in ours.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.1
    plain = PLAIN[name]()
    head = _plain_head(name, plain)
    new_head = nn.Linear(head.in_features, 2)
    if name == "alexnet":
        plain.classifier[6] = new_head
        if device == "cuda":  # a pool that does nothing at this size, but whose gradient is refused where bits repeat
            plain.avgpool = nn.Identity()
    else:
        plain.fc = new_head
    plain.load_state_dict(ours.state_dict())
    plain.to(device, memory_format=memory_format)

    ours.to(device, memory_format=torch.channels_last)
    place = torch.device(device)
    trainer = Trainer(ours, backbone, augment, move(splits, place), SEED, place, "fp32", lambda event: None)
    key = f"{backbone.head}.weight"
    for index, stage in enumerate(_stages(batch_norm, finetune_rate)):
        before = plain.state_dict()[key].clone()
        trainer.run_stage(stage, index)
        _plain_stage(name, plain, stage, augment, splits["train"], memory_format, device)
        for name_of, expected in plain.state_dict().items():
            found = ours.state_dict()[name_of]
            # running means close to zero, where sums in another order part first
            other = layout == "contiguous_format" and not name_of.startswith(backbone.head)
            apart = 1e-4 if other or device == "cuda" else 1e-5  # a GPU's convolutions sum in an order of their own
            torch.testing.assert_close(
                found.contiguous(),
                expected.contiguous(),
                atol=apart,
                rtol=10 * apart if apart > 1e-5 else 0,
                msg=lambda text, name_of=name_of: f"{name_of}: {text}",
            )
        moved = (plain.state_dict()[key] - before).abs().max()
        assert moved > 1e-5, "a stage that moves nothing proves nothing"


def test_auxiliary_heads_train_by_their_weight_and_only_then() -> None:
    backbone = GoogLeNet()
    moved = {}
    for weight in (0.0, 0.3):
        ours, _ = build(backbone, "googlenet", weights="random", classes=2, auxiliary=weight > 0, seed=SEED, note=print)
        splits = {"train": _split(8, 0), "val": _split(4, 1), "test": _split(4, 2)}
        augment = Augment(PAPER.transform, 224, backbone.mean, backbone.std)
        trainer = Trainer(ours, backbone, augment, splits, SEED, torch.device("cpu"), "fp32", lambda event: None)
        before = {key: value.clone() for key, value in ours.state_dict().items()}
        stage = _stages("train", 1e-3)[0].model_copy(update={"epochs": 1, "auxiliary_weight": weight})
        trainer.run_stage(stage, 0)
        parameters = dict(ours.named_parameters())
        moved[weight] = {key for key in parameters if not torch.equal(before[key], parameters[key])}
    assert moved[0.0] == {"fc.weight", "fc.bias"}
    assert moved[0.3] == {f"{head}.{part}" for head in ("fc", "aux1.fc2", "aux2.fc2") for part in ("weight", "bias")}
