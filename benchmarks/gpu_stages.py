"""How near each stage on a GPU comes to its own speed on inputs that lie there already, augmented.

    python benchmarks/gpu_stages.py --images chest_xray_224.zip [--precision bf16] [--profile]

Each stage of the paper's three networks trains for some epochs as `harness run` trains it, and in turn on inputs that
were cropped, flipped and normalised before. Images per second of an epoch without its validation, medians.
"""

from __future__ import annotations

import argparse
import statistics
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from harness import registry
from harness.api import Backbone, Stage
from harness.data.augment import Augment
from harness.engine.batches import Split, move
from harness.engine.device import resolve_device
from harness.engine.model import build
from harness.engine.stage import Trainer
from harness.engine.steps import Shown
from harness.results import EpochResult, StageResult
from harness_plugins.schedules.paper import PAPER


class Augmented(Augment):
    """Leaves images as they are."""

    def crop(self, images: Tensor, _draws: object) -> Tensor:
        return images


class Ready(Trainer):
    """Trains on inputs that are on the device already."""

    def _shown(self, work, epoch, watch) -> Shown:
        shown = super()._shown(work, epoch, watch)
        if work.frozen is None:
            if not hasattr(self, "inputs"):
                parts = torch.arange(len(shown.labels), device=self.device).split(512)
                self.inputs = torch.cat([shown.inputs(tuple(row[part] for row in shown.rows))[0] for part in parts])
            return Shown((self.inputs,), shown.labels, lambda picked: picked)
        return shown


def read(archive: Path) -> dict[str, Split]:
    """Return the archive's images, grey, of .../{train,test}/CLASS/*.jpeg: 4916 to train, 300 to validate, the rest."""
    with zipfile.ZipFile(archive) as source:
        names = sorted(name for name in source.namelist() if name.endswith(".jpeg"))
        pixels = [np.asarray(Image.open(source.open(name)).convert("L").resize((224, 224))) for name in names]
    images = torch.from_numpy(np.stack(pixels)[..., None])
    labels = torch.tensor(["/PNEUMONIA/" in name for name in names]).long()
    training = torch.tensor(["/train/" in name for name in names])
    drawn = training.nonzero()[:, 0][torch.randperm(int(training.sum()), generator=torch.Generator().manual_seed(0))]
    rows = {"train": drawn[:4916], "val": drawn[4916:5216], "test": (~training).nonzero()[:, 0]}
    return {name: Split(images[where], labels[where]) for name, where in rows.items()}


def train(kind: type[Trainer], augment: Augment, name: str, splits, stage: Stage, device, precision: str) -> dict:
    backbone = registry.load(registry.find("backbone", name), Backbone)
    module, _ = build(backbone, name, weights="random", classes=2, auxiliary=False, seed=0, note=print)
    module.to(device, memory_format=torch.channels_last)
    events: list[object] = []
    trainer = kind(module, backbone, augment, splits, 0, device, precision, events.append)
    trainer.run_stage(stage, 0)
    epochs = [event for event in events if isinstance(event, EpochResult)]
    (result,) = (event for event in events if isinstance(event, StageResult))
    return {
        "speed": statistics.median(epoch.images_per_second for epoch in epochs[1:]),
        "first": epochs[0].images_per_second,
        "evaluation": statistics.median(
            epoch.seconds - len(splits["train"].labels) / epoch.images_per_second for epoch in epochs[1:]
        ),
        "seconds": result.seconds,
        "execution": result.execution,
        "trainer": trainer,
    }


def profile(name: str, splits, stage: Stage, device, precision: str) -> None:
    """Print where a GPU's time goes in an epoch."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as watch

    backbone = registry.load(registry.find("backbone", name), Backbone)
    augment = Augment(PAPER.transform, 224, backbone.mean, backbone.std)
    with watch(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as found:
        train(Trainer, augment, name, splits, stage.model_copy(update={"epochs": 2}), device, precision)
    print(found.key_averages().table(sort_by="self_cuda_time_total", row_limit=18, max_name_column_width=70))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--profile", action="store_true", help="print the kernels that take longest")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--backbones", default="alexnet,googlenet,resnet18")
    parser.add_argument("--cudnn-benchmark", action="store_true", help="let cuDNN try its algorithms out")
    given = parser.parse_args()
    torch.backends.cudnn.benchmark = given.cudnn_benchmark
    device = resolve_device(given.device, given.precision, print)
    splits = move(read(given.images), device)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{gpu}, torch {torch.__version__}, {given.precision}, batch 32, {len(splits['train'].labels)} images")
    for name in given.backbones.split(","):
        backbone = registry.load(registry.find("backbone", name), Backbone)
        for stage in PAPER.stages:
            stage = stage.model_copy(update={"epochs": given.epochs})
            options = (PAPER.transform, 224, backbone.mean, backbone.std)
            ours = train(Trainer, Augment(*options), name, splits, stage, device, given.precision)
            ready = train(Ready, Augmented(*options), name, splits, stage, device, given.precision)
            print(
                f"{name:12}{stage.name:10}{ours['speed']:10.0f} images/s of {ready['speed']:8.0f}: "
                f"{ours['speed'] / ready['speed']:.1%}; first epoch {ours['first']:.0f}, "
                f"evaluation {1e3 * ours['evaluation']:.0f} ms, stage {ours['seconds']:.1f} s, {ours['execution']}",
                flush=True,
            )
            if given.profile:
                profile(name, splits, stage, device, given.precision)


if __name__ == "__main__":
    main()
