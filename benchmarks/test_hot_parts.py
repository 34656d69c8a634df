"""What takes the time of a run, part by part, each beside a named baseline of its group.

    make bench

Images are generated; ResNet18 has random weights, which cost what trained ones cost.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn
from torchvision import transforms

from database_size import fill
from harness import registry
from harness.analysis import metrics
from harness.analysis.ensemble import combine_runs, member_probabilities
from harness.analysis.laboratory import score
from harness.api import Backbone, Ensemble, ImageRef, ImageSplits
from harness.data.augment import Augment, View
from harness.data.decode import decode
from harness.engine.average import Average
from harness.engine.batches import BatchSize, Split
from harness.engine.checkpoint import Position
from harness.engine.cut import cut
from harness.engine.features import Features
from harness.engine.forms import InferenceForms
from harness.engine.model import build, prepare, set_train_mode
from harness.engine.rates import Rates, optimizer_of
from harness.engine.stage import Trainer, _Work
from harness.engine.steps import Shown
from harness.report.render import render_report
from harness.results import Run
from harness.store import open_store
from harness_plugins.schedules.paper import PAPER

N, BATCH = 128, 32
EXAMPLE = Path(__file__).parent.parent / "benchmark.db.example"
RULES = (
    "majority_vote", "mean_probability", "median_probability", "rank_average", "weighted_mean", "greedy_selection",
    "stacking",
)  # fmt: skip
CPU = torch.device("cpu")
FROZEN, FINETUNE = (stage.model_copy(update={"batch_norm": "eval"}) for stage in PAPER.stages)


def _photographs(n: int) -> list[bytes]:
    """Grey JPEG files of 224 pixels, about as large as the X-rays'."""
    draws = np.random.default_rng(0)
    made = []
    for _ in range(n):
        coarse = Image.fromarray(draws.integers(0, 256, (28, 28), dtype=np.uint8))
        file = io.BytesIO()
        coarse.resize((224, 224), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        made.append(file.getvalue())
    return made


@dataclass(frozen=True)
class _Files:
    files: list[bytes]
    grey: bool = True

    def read(self, ids: list[str]) -> Iterator[Image.Image]:
        for id_ in ids:
            yield Image.open(io.BytesIO(self.files[int(id_)]))


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    return _photographs(N)


@pytest.fixture
def splits(files: list[bytes]) -> ImageSplits:
    refs = tuple(ImageRef(str(index), index % 2, str(index), f"{index:064}") for index in range(N))
    return ImageSplits(("a", "b"), refs, refs[:1], refs[:1], _Files(files))


@pytest.fixture
def split(files: list[bytes]) -> Split:
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(file)))[..., None] for file in files])
    return Split(torch.from_numpy(pixels), torch.arange(N) % 2)


def _decode(splits: ImageSplits) -> np.ndarray:
    return decode(splits, splits.train, 224, lambda *_: None, print)


def _per_image(benchmark, n: int = N) -> None:
    benchmark.extra_info["ms_per_image"] = 1e3 * benchmark.stats["median"] / n


@pytest.mark.benchmark(group="decode 128 images of 224 pixels")
def test_decode_baseline_pillow_in_a_loop(benchmark, files: list[bytes]) -> None:
    benchmark(lambda: [np.asarray(Image.open(io.BytesIO(file)).convert("L")) for file in files])
    _per_image(benchmark)


@pytest.mark.benchmark(group="decode 128 images of 224 pixels")
def test_decode_in_threads_and_keep(benchmark, splits: ImageSplits, tmp_path: Path, monkeypatch) -> None:
    homes = (tmp_path / str(number) for number in range(10_000))
    benchmark.pedantic(
        lambda: _decode(splits), setup=lambda: monkeypatch.setenv("HARNESS_HOME", str(next(homes))), rounds=10
    )
    _per_image(benchmark)


@pytest.mark.benchmark(group="decode 128 images of 224 pixels")
def test_decoded_before(benchmark, splits: ImageSplits, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HARNESS_HOME", str(tmp_path))
    _decode(splits)
    benchmark(lambda: _decode(splits))
    _per_image(benchmark)


def _augment() -> Augment:
    return Augment(PAPER.transform, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.benchmark(group="crop, flip and normalise a batch of 32")
def test_augment_baseline_torchvision_image_by_image(benchmark, split: Split) -> None:
    images = [Image.fromarray(image[..., 0].numpy()).convert("RGB") for image in split.images[:BATCH]]
    steps = transforms.Compose(
        [
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    benchmark(lambda: torch.stack([steps(image) for image in images]))
    _per_image(benchmark, BATCH)


@pytest.mark.benchmark(group="crop, flip and normalise a batch of 32")
def test_augment_a_batch(benchmark, split: Split) -> None:
    augment, images = _augment(), split.batch(torch.arange(BATCH), CPU)
    draws = augment.draw(BATCH, torch.Generator().manual_seed(0))
    benchmark(lambda: augment.inputs(images, draws))
    _per_image(benchmark, BATCH)


def _built(stage) -> tuple[nn.Module, Backbone]:
    backbone = registry.load(registry.find("backbone", "resnet18"), Backbone)
    module, _ = build(backbone, "resnet18", weights="random", classes=2, auxiliary=False, seed=0, note=print)
    module.to(memory_format=torch.channels_last)
    prepare(module, backbone, stage)
    set_train_mode(module, stage)
    return module, backbone


@pytest.mark.benchmark(group="features of 128 images, ResNet18")
def test_features_baseline_torchvision_fp32(benchmark, split: Split) -> None:
    network = torchvision.models.resnet18(weights=None).eval()
    network.fc = nn.Identity()
    inputs = _augment().inputs(split.batch(torch.arange(N), CPU)).contiguous()

    def features() -> None:
        with torch.no_grad():
            for batch in inputs.split(BATCH):
                network(batch)

    benchmark.pedantic(features, rounds=3, warmup_rounds=1)
    _per_image(benchmark)


@pytest.mark.benchmark(group="features of 128 images, ResNet18")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_features(benchmark, split: Split, precision: str) -> None:
    module, backbone = _built(FROZEN)
    augment, images = _augment(), split.batch(torch.arange(2), CPU)
    trunk = cut(module, backbone.logits, augment.inputs(images)).trunk
    form = InferenceForms(precision, augment.normalize).make(trunk, images)
    features = Features(form, augment, CPU, precision, BatchSize(BATCH, print), None, "", print)
    benchmark.pedantic(lambda: features.rows(split, torch.arange(N), View()), rounds=3, warmup_rounds=1)
    _per_image(benchmark)


def _trainer(split: Split, stage, precision: str) -> tuple[Trainer, _Work]:
    module, backbone = _built(stage)
    val = Split(split.images[:1], split.labels[:1])
    splits = {"train": split, "val": val, "test": val}
    trainer = Trainer(module, backbone, _augment(), splits, 0, CPU, precision, lambda _event: None)
    optimizer = optimizer_of(stage, [prepare(module, backbone, stage)])
    set_train_mode(module, stage)
    work = _Work(stage, optimizer, Rates(stage, optimizer, 4), Average(stage, {}), Position(0), [], True)
    if stage.trainable == "head":
        work.frozen = trainer._freeze(stage)
    work.steps = trainer._steps(work)
    return trainer, work


@pytest.mark.benchmark(group="train a head on 128 images' features, an epoch, ResNet18")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_head_epoch(benchmark, split: Split, precision: str) -> None:
    _, work = _trainer(split, FROZEN, precision)
    features = work.frozen.features.rows(split, torch.arange(N), View())
    work.steps.show(Shown(features, split.labels, lambda rows: rows), 0.0, 0)

    def epoch() -> None:
        for rows in torch.arange(N).split(BATCH):
            work.steps.take(rows)

    benchmark(epoch)
    _per_image(benchmark)


@pytest.mark.benchmark(group="fine-tune one batch of 32, ResNet18")
def test_finetune_baseline_torchvision_fp32(benchmark, split: Split) -> None:
    network = torchvision.models.resnet18(weights=None, num_classes=2).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-5, momentum=0.9)
    inputs = _augment().inputs(split.batch(torch.arange(BATCH), CPU)).contiguous()

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(inputs), split.labels[:BATCH]).backward()
        optimizer.step()

    benchmark.pedantic(step, rounds=5, warmup_rounds=1)
    _per_image(benchmark, BATCH)


@pytest.mark.benchmark(group="fine-tune one batch of 32, ResNet18")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_finetune_step(benchmark, split: Split, precision: str) -> None:
    _, work = _trainer(split, FINETUNE, precision)
    inputs = _augment().inputs(split.batch(torch.arange(BATCH), CPU))
    work.steps.show(Shown((inputs,), split.labels[:BATCH], lambda rows: rows), 0.0, 0)
    benchmark.pedantic(partial(work.steps.take, torch.arange(BATCH)), rounds=5, warmup_rounds=1)
    _per_image(benchmark, BATCH)


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("thousand") / "benchmark.db"
    fill(str(path), 1000)
    return path


@pytest.mark.benchmark(group="majority vote of 3 runs on 624 stored predictions")
def test_vote_baseline_counter_in_a_loop(benchmark, thousand: Path) -> None:
    with open_store(str(thousand), create=False) as store:
        runs = [store.run(run_id) for run_id in (3, 4, 5)]
    decided = [metrics.classify(run.stages[0].predictions["test"].logits).tolist() for run in runs]
    benchmark(lambda: [Counter(votes).most_common(1)[0][0] for votes in zip(*decided, strict=True)])


@pytest.mark.benchmark(group="majority vote of 3 runs on 624 stored predictions")
def test_vote(benchmark, thousand: Path) -> None:
    method = registry.find("ensemble", "majority_vote")
    rule = registry.load(method, Ensemble)
    with open_store(str(thousand), create=False) as store:
        voters = [(store.run(run_id), "frozen") for run_id in (3, 4, 5)]
    benchmark(lambda: combine_runs(rule, method.record, voters))


@pytest.fixture(scope="module")
def voters() -> list[tuple[Run, str]]:
    """Eight runs on the same real images."""
    with open_store(str(EXAMPLE), create=False) as store:
        return [(store.run(run_id), "frozen") for run_id in range(26, 34)]


def _rules() -> dict[str, Ensemble]:
    return {name: registry.load(registry.find("ensemble", name), Ensemble) for name in RULES}


@pytest.mark.benchmark(group=f"every subset of 8 runs by {len(RULES)} rules, on validation images")
def test_search_baseline_combine_runs_subset_by_subset(benchmark, voters: list[tuple[Run, str]]) -> None:
    """Which scores rules on the images they were fitted to, once, where the search fits and scores five times."""
    subsets = [s for size in range(2, len(voters) + 1) for s in combinations(voters, size)]

    def search() -> None:
        for name, rule in _rules().items():
            record = registry.find("ensemble", name).record
            for subset in subsets:
                combine_runs(rule, record, subset, "val")

    benchmark.pedantic(search, rounds=1)


@pytest.mark.benchmark(group=f"every subset of 8 runs by {len(RULES)} rules, on validation images")
def test_search(benchmark, voters: list[tuple[Run, str]]) -> None:
    val = next(one for one in voters[0][0].dataset.splits if one.name == "val")
    benchmark.pedantic(lambda: score(member_probabilities(voters, "val"), val.labels, val.groups, _rules()), rounds=1)


@pytest.mark.benchmark(group="report over 1,000 runs")
def test_report(benchmark, thousand: Path, tmp_path: Path) -> None:
    with open_store(str(thousand), create=False) as store:
        benchmark.pedantic(lambda: render_report(store, tmp_path / "out"), rounds=3)
