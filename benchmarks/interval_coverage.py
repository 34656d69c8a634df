"""How often intervals hold the truth and tests are wrong: harness/analysis on simulated data, whose truth is known.

    python benchmarks/interval_coverage.py

writes interval_coverage.json, in some minutes on one core. The tests run the same simulations, a few times each.

Images are as many as the chest X-rays' test split has: 624, 390 of them of class 1.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import binomtest, norm

from harness.analysis.bootstrap import clustered_bootstrap, clustered_mean
from harness.analysis.metrics import wilson
from harness.analysis.paired import ALPHA, mcnemar, pairwise, smallest_difference
from harness.analysis.reproduction import equivalence, mean_and_deviation
from harness.analysis.roc import auc_interval, delong

IMAGES, POSITIVE = 624, 390
SEED = 20240624


@dataclass(frozen=True)
class Rate:
    """In ``count`` of ``simulations`` it happened; it should in a share from ``least`` to ``most``.

    ``n`` counts what each simulation had, in ``unit``.
    """

    name: str
    n: int
    unit: str
    simulations: int
    count: int
    least: float
    most: float

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Return Clopper and Pearson's interval of the share."""
        found = binomtest(self.count, self.simulations).proportion_ci(confidence)
        return float(found.low), float(found.high)

    @property
    def holds(self) -> bool:
        """False where the share is outside beyond chance (99.9 %)."""
        low, high = self.interval(0.999)
        return low <= self.most and high >= self.least


@contextmanager
def without_garbage() -> Iterator[None]:
    """Have the garbage collection of each of statsmodels' ``multipletests`` pass over what there is already."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def holds(interval: tuple[float, float] | None, truth: float) -> bool:
    """True where there is an interval, and the truth is in it."""
    return interval is not None and interval[0] <= truth <= interval[1]


def of_wilson(simulations: int, draws: np.random.Generator) -> Iterator[Rate]:
    """Accuracy of independent images."""
    right = draws.binomial(IMAGES, 0.87, simulations)
    covered = sum(holds(wilson(int(one), IMAGES), 0.87) for one in right)
    yield Rate("Wilson's interval of an accuracy of 0.87", IMAGES, "images", simulations, covered, 0.94, 0.96)


def _patients(draws: np.random.Generator, patients: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the patient of each image, 1 to 8 images each, and what two networks got right, (2, images).

    Whether an image is easy depends on the patient (0.6), on how the network does with the patient (0.4) and on the
    image. By symmetry of the normal distribution the expected accuracies are 0.87 and 0.84.
    """
    groups = np.repeat(np.arange(patients), draws.integers(1, 9, patients))
    hardness = 0.6 * draws.normal(size=patients) + 0.4 * draws.normal(size=(2, patients))
    spread = np.sqrt(1 + 0.6**2 + 0.4**2)
    easy = norm.ppf([[0.87], [0.84]]) * spread + hardness[:, groups] + draws.normal(size=(2, len(groups)))
    return groups, easy > 0


def of_patients(simulations: int, draws: np.random.Generator) -> Iterator[Rate]:
    """Accuracy, and its difference, of images that come in groups; with intervals that know of it, and without."""
    for patients, least in ((139, 0.935), (20, 0.91)):
        clustered = difference = unclustered = single = 0
        for seed in range(simulations):
            groups, (first, second) = _patients(draws, patients)
            clustered += holds(clustered_mean(first, groups, draws=1000, seed=seed).interval, 0.87)
            lead = first.astype(int) - second
            difference += holds(clustered_mean(lead, groups, draws=1000, seed=seed).interval, 0.03)
            unclustered += holds(wilson(int(first.sum()), len(first)), 0.87)
            if patients > 100:
                single += holds(clustered_mean(first, range(len(first)), draws=500, seed=seed).interval, 0.87)
        of = f"of {patients} patients with 1 to 8 images"
        yield Rate(f"clustered bootstrap, accuracy {of}", patients, "patients", simulations, clustered, least, 0.97)
        yield Rate(f"clustered bootstrap, difference {of}", patients, "patients", simulations, difference, least, 0.97)
        yield Rate(
            f"Wilson, which ignores patients, accuracy {of}", patients, "patients", simulations, unclustered, 0, 0.93
        )
        if patients > 100:
            name = f"bootstrap of single images, which ignores patients, accuracy {of}"
            yield Rate(name, patients, "patients", simulations, single, 0, 0.93)


def _scores(draws: np.random.Generator, areas: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and the scores of two networks, (2, images), correlated by 0.6, normal in each class."""
    labels = np.repeat([1, 0], [POSITIVE, IMAGES - POSITIVE])
    noise = draws.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], IMAGES).T
    return labels, noise + np.sqrt(2) * norm.ppf(areas)[:, None] * labels


def of_delong(simulations: int, draws: np.random.Generator) -> Iterator[Rate]:
    """Areas under two ROC curves, apart and alike."""
    single = apart = wrong = 0
    for _ in range(simulations):
        labels, (first, second) = _scores(draws, (0.97, 0.95))
        found, one = delong(labels, first, second), auc_interval(labels, first)
        single += one is not None and holds(one.interval, 0.97)
        apart += found is not None and holds(found.interval, 0.02)
        labels, (first, second) = _scores(draws, (0.96, 0.96))
        equal = delong(labels, first, second)
        wrong += equal is not None and equal.p is not None and equal.p < ALPHA
    yield Rate("interval of an AUC of 0.97", IMAGES, "images", simulations, single, 0.935, 0.965)
    yield Rate(
        "DeLong's interval of the difference of 0.97 and 0.95", IMAGES, "images", simulations, apart, 0.935, 0.965
    )
    yield Rate("DeLong's test of equal AUCs says they differ", IMAGES, "images", simulations, wrong, 0.035, 0.06)


def _predictions(draws: np.random.Generator, only: tuple[float, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels and two predictions, of which one alone is right in such shares of the images."""
    kind = draws.choice(4, IMAGES, p=[*only, 0.8, 0.2 - sum(only)])
    return np.ones(IMAGES, int), np.isin(kind, (0, 2)).astype(int), np.isin(kind, (1, 2)).astype(int)


def of_mcnemar(simulations: int, draws: np.random.Generator) -> Iterator[Rate]:
    """Networks that are alike, two and several, and two that are as far apart as should be found."""
    wrong = sum(mcnemar(*_predictions(draws, (0.05, 0.05))).told_apart for _ in range(simulations))
    yield Rate("exact McNemar tells equals apart", IMAGES, "images", simulations, wrong, 0.01, 0.05)
    apart = smallest_difference(IMAGES, 0.1)
    assert apart is not None
    only = 0.05 + apart / 2, 0.05 - apart / 2
    found = sum(mcnemar(*_predictions(draws, only)).told_apart for _ in range(simulations))
    name = f"exact McNemar finds the smallest difference it should in 80 %, {apart:.4f}"
    yield Rate(name, IMAGES, "images", simulations, found, 0.74, 0.82)
    several = 0
    for _ in range(simulations):
        predictions = draws.random((5, IMAGES)) < np.where(draws.random(IMAGES) < 0.85, 0.95, 0.4)
        several += bool((pairwise(np.ones(IMAGES), list(predictions.astype(int))) < ALPHA).any())
    yield Rate(
        "any of 10 pairs of 5 equals is told apart, by Holm", IMAGES, "images", simulations, several, 0.005, 0.05
    )


def of_seeds(simulations: int, draws: np.random.Generator) -> Iterator[Rate]:
    """Figures of several seeds, whose true mean is at the edge of the margin."""
    for seeds in (3, 5, 10):
        samples = draws.normal(0.88, 0.005, (simulations, seeds))
        verdicts = [equivalence(one, 0.86, 0.02).verdict for one in samples]
        covered = sum(holds(mean_and_deviation(one).interval, 0.88) for one in samples)
        for verdict in ("reproduced", "not reproduced"):
            name = f'at the edge of the margin the verdict is "{verdict}"'
            yield Rate(name, seeds, "seeds", simulations, verdicts.count(verdict), 0.02, 0.05)
        yield Rate("t interval of the mean over seeds", seeds, "seeds", simulations, covered, 0.945, 0.955)


def of_bootstrapped_auc(simulations: int, draws: np.random.Generator) -> Iterator[Rate]:
    """The general bootstrap, of AUC; images are of two a patient, who is ill or not."""
    covered = 0
    for seed in range(simulations):
        labels = np.repeat([1, 0], [200, 112])
        own = draws.normal(size=(len(labels), 2)) * np.sqrt(0.7) + draws.normal(size=(len(labels), 1)) * np.sqrt(0.3)
        scores, labels = (own + np.sqrt(2) * norm.ppf(0.9) * labels[:, None]).ravel(), np.repeat(labels, 2)

        def area(images: np.ndarray, labels: np.ndarray = labels, scores: np.ndarray = scores) -> float | None:
            found = auc_interval(labels[images], scores[images])
            return None if found is None else found.auc

        found = clustered_bootstrap(area, np.repeat(np.arange(len(labels) // 2), 2), draws=300, seed=seed)
        covered += holds(found.interval, 0.9)
    yield Rate(
        "clustered bootstrap, AUC of 0.9 of 312 patients with 2 images",
        312,
        "patients",
        simulations,
        covered,
        0.925,
        0.97,
    )


Simulation = Callable[[int, np.random.Generator], Iterator[Rate]]
SIMULATIONS: dict[Simulation, int] = {
    of_wilson: 20_000,
    of_patients: 1_500,
    of_delong: 10_000,
    of_mcnemar: 10_000,
    of_seeds: 10_000,
    of_bootstrapped_auc: 300,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    rows = []
    for simulation, times in SIMULATIONS.items():
        begin = time.perf_counter()
        with without_garbage():
            rates = list(simulation(times, np.random.default_rng(SEED)))
        for rate in rates:
            low, high = rate.interval()
            rows.append(
                {
                    "name": rate.name,
                    "n": rate.n,
                    "unit": rate.unit,
                    "simulations": rate.simulations,
                    "rate": rate.count / rate.simulations,
                    "low": low,
                    "high": high,
                    "should_be": [rate.least, rate.most],
                    "holds": rate.holds,
                }
            )
            share = f"{rate.count / rate.simulations:.4f} ({low:.4f} to {high:.4f})"
            print(f"{'' if rate.holds else 'NOT '}{rate.name}: {share}")
        print(f"  {time.perf_counter() - begin:.0f} s")
    arguments.results.write_text(json.dumps({"seed": SEED, "confidence": 0.95, "rates": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
