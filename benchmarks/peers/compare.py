"""harness beside what people would use instead: the same images, the same work, interleaved on this machine.

    pip install -c constraints.txt -e '.[peers]'
    python benchmarks/peers/compare.py --images chest_xray_224.zip            (all of it: more than an hour)
    python benchmarks/peers/compare.py --images chest_xray_224.zip --quick    (one piece of work, once: 2 minutes)

Each peer is a process of its own, as its users start it; ``--rounds`` repeats them in turn, each round beginning with
another one. Images per second are those of the last epoch's training alone, and of the test images, as the process
itself says; wall time is from its start to its end. Peak memory is its and its workers' proportional set size, watched
in one more run, because watching takes a twentieth of the speed. Weights are random: they cost what trained ones cost.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path, PurePosixPath

import psutil
from rich.console import Console
from rich.progress import track
from rich.table import Table

from harness.measure.environment import cpu_name
from work import Work

HERE = Path(__file__).parent
BASELINE, OURS = "tutorial", "harness, bf16"
# what is compared: its script, whose version counts, and how the work differs
PEERS: dict[str, tuple[str, str, dict[str, str]]] = {
    OURS: ("ours", "transfer-harness", {}),
    "harness, fp32": ("ours", "transfer-harness", {"precision": "fp32"}),
    BASELINE: ("tutorial", "torchvision", {}),
    "timm's train.py, bf16": ("timm_train", "timm", {}),
    "Lightning": ("lightning_trainer", "lightning", {}),
    "Hugging Face": ("huggingface_trainer", "transformers", {}),
    "fastai": ("fastai_learner", "fastai", {}),
    "scikit-learn probe": ("sklearn_probe", "scikit-learn", {}),
}
FEW = (OURS, BASELINE, "timm's train.py, bf16")


@dataclass(frozen=True)
class Contest:
    """One piece of work, who does it in every round, and who in the first one alone."""

    title: str
    options: dict[str, str | int | bool]
    peers: tuple[str, ...] = FEW
    once: tuple[str, ...] = ()


CONTESTS = {
    "frozen": Contest(
        "frozen epochs, ResNet18, BatchNorm in eval mode",
        {"epochs": 2},
        (*FEW, "harness, fp32"),
        ("Lightning", "Hugging Face", "scikit-learn probe"),
    ),
    "whole": Contest("whole process: one frozen epoch, ResNet18, and its test", {}),
    "frozen-train-bn": Contest(
        "frozen epochs, ResNet18, BatchNorm in train mode", {"epochs": 2, "batch_norm": "train"}, once=("fastai",)
    ),
    "googlenet": Contest("frozen epochs, GoogLeNet, eval mode", {"epochs": 2, "backbone": "googlenet"}),
    "alexnet": Contest("frozen epochs, AlexNet", {"epochs": 2, "backbone": "alexnet"}),
    "finetune": Contest(
        "fine-tune epoch, ResNet18",
        {"trainable": "all", "batch_norm": "train"},
        once=("Lightning", "Hugging Face", "fastai"),
    ),
    "deterministic": Contest(
        "25 frozen epochs without augmentation, ResNet18",
        {"epochs": 25, "augment": False},
        (),
        (OURS, BASELINE, "scikit-learn probe"),
    ),
}


@dataclass(frozen=True)
class Sample:
    """What one process did: images per second and seconds, or bytes."""

    train: float | None = None
    test: float | None = None
    wall: float | None = None
    memory: float | None = None


def unpack(archive: Path, folder: Path, train: int, val: int) -> None:
    """Lay out ``train`` and ``val`` of the archive's training images, by class in proportion, and all its test images.

    The archive holds .../{train,test}/CLASS/*.jpeg.
    """
    with zipfile.ZipFile(archive) as source:
        by_place: dict[tuple[str, str], list[str]] = defaultdict(list)
        for name in sorted(source.namelist()):
            path = PurePosixPath(name)
            if path.suffix == ".jpeg" and path.parts[-3] in ("train", "test"):
                by_place[path.parts[-3], path.parts[-2]].append(name)
        total = sum(len(names) for (split, _), names in by_place.items() if split == "train")
        for (split, label), names in by_place.items():
            chosen = {"test": names}
            if split == "train":
                random.Random(0).shuffle(names)
                share = [round(n * len(names) / total) for n in (train, val)]
                chosen = {"train": names[: share[0]], "val": names[share[0] : sum(share)]}
            for place, members in chosen.items():
                target = folder / place / label
                target.mkdir(parents=True)
                for member in members:
                    (target / PurePosixPath(member).name).write_bytes(source.read(member))


def run(peer: str, work: Work, watched: bool = False) -> Sample:
    """Execute a peer, and measure its speed or, watched, its memory."""
    script, _, options = PEERS[peer]
    command = [sys.executable, str(HERE / f"{script}.py"), json.dumps(asdict(replace(work, **options)))]
    begin = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True)
        peak = _Peak(process.pid)
        if watched:
            peak.start()
        told, _ = process.communicate()
        wall = time.perf_counter() - begin
        peak.ended.set()
        if process.returncode:
            said.seek(0)
            sys.exit(f"{peer} failed:\n{said.read().decode()[-3000:]}")
    if watched:
        peak.join()
        return Sample(memory=peak.bytes)
    speeds = json.loads(told.splitlines()[-1])
    return Sample(speeds["train"], speeds["test"], wall)


class _Peak(threading.Thread):
    """Watches the proportional set size of a process and its descendants: pages that they share count once."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.ended = threading.Event()
        self.bytes = 0.0
        self._process = psutil.Process(pid)

    def run(self) -> None:
        while not self.ended.wait(0.25):
            with suppress(psutil.NoSuchProcess):
                tree = [self._process, *self._process.children(recursive=True)]
                self.bytes = max(self.bytes, sum(map(_pss, tree)))


def _pss(process: psutil.Process) -> float:
    try:
        return float(process.memory_full_info().pss)
    except psutil.Error:  # it has ended meanwhile
        return 0.0


def compete(contests: Iterable[str], images: Path, rounds: int, workers: int) -> dict[str, dict[str, list[Sample]]]:
    """Return the samples of each contest and peer."""
    turns = list(_turns(contests, rounds))
    found: dict[str, dict[str, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    for name, peer, watched in track(turns, "competing", console=Console(stderr=True)):
        work = Work(images=str(images), workers=workers, **CONTESTS[name].options)
        found[name][peer].append(run(peer, work, watched))
    return found


def _turns(contests: Iterable[str], rounds: int) -> Iterator[tuple[str, str, bool]]:
    for name in contests:
        contest = CONTESTS[name]
        for number in range(rounds):
            peers = (*contest.peers, *(contest.once if number == 0 else ()))
            first = number % max(len(peers), 1)
            yield from ((name, peer, False) for peer in (*peers[first:], *peers[:first]))
        yield from ((name, peer, True) for peer in (*contest.peers, *contest.once))


def medians(samples: list[Sample]) -> Sample:
    """Return the median of each figure."""
    rows = [asdict(sample) for sample in samples]
    return Sample(**{key: statistics.median(row[key] for row in rows if row[key] is not None) for key in rows[0]})


def table(name: str, found: dict[str, list[Sample]]) -> Table:
    """Show a contest: what each did, and harness's ratio to it."""
    figures = {peer: medians(samples) for peer, samples in found.items()}
    ours = figures[OURS]
    shown = Table(title=CONTESTS[name].title)
    for heading in ("", "n", "train/s", "x", "test/s", "x", "wall s", "x", "peak MiB", "x"):
        shown.add_column(heading, justify="right" if heading else "left")
    for peer, one in figures.items():
        shown.add_row(
            peer, str(len(found[peer]) - 1),
            f"{one.train:.1f}", f"{ours.train / one.train:.2f}",
            f"{one.test:.1f}", f"{ours.test / one.test:.2f}",
            f"{one.wall:.1f}", f"{one.wall / ours.wall:.2f}",
            f"{one.memory / 2**20:,.0f}", f"{ours.memory / one.memory:.2f}",
        )  # fmt: skip
    return shown


def _packages(found: dict[str, dict[str, list[Sample]]]) -> Iterator[str]:
    yield from (PEERS[peer][1] for samples in found.values() for peer in samples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="zip of chest X-rays")
    parser.add_argument("--contests", nargs="+", choices=CONTESTS, default=list(CONTESTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="loader processes of the peers")
    parser.add_argument("--limit-train", type=int, default=640)
    parser.add_argument("--quick", action="store_true", help="the whole process alone, once")
    parser.add_argument("--json", type=Path, help="file for every sample")
    options = parser.parse_args()
    if options.quick:
        options.contests, options.rounds = ["whole"], 1
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        unpack(options.images, Path(folder), options.limit_train, val=16)
        found = compete(options.contests, Path(folder), options.rounds, options.workers)
    versions = ", ".join(f"{package} {version(package)}" for package in dict.fromkeys(["torch", *_packages(found)]))
    console.print(f"{cpu_name()}, {os.cpu_count()} cores, {versions}")
    for name, samples in found.items():
        console.print(table(name, samples))
    console.print(
        "/s: images per second. x: how many times faster harness in bf16 is, or how much more memory it takes."
    )
    if options.json:
        options.json.write_text(json.dumps(found, default=asdict, indent=1))


if __name__ == "__main__":
    main()
