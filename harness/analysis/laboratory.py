"""Which ensemble is best, told by validation images alone; and how much the members' errors have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.api import Ensemble
from harness.errors import DataError, HarnessError, PluginError

__all__ = ["Candidate", "Diversity", "candidates", "diversity", "oracle", "score"]

FOLDS = 5
_LEAVE = "Name the other rules by --method"


@dataclass(frozen=True)
class Candidate:
    """A rule over some of the members, by their places, and its Brier score on validation images: less is better."""

    members: tuple[int, ...]
    rule: str
    brier: float


@dataclass(frozen=True)
class Diversity:
    """What two members have in common.

    Args:
        first: place of the one.
        second: place of the other.
        overlap: of the images that either got wrong, the share that both did; None where neither erred.
        q: Yule's Q (Kuncheva and Whitaker 2003, Machine Learning 51:181): 1 where they err alike, 0 where errors are
            independent, -1 where never together; None where it is not defined.
        disagreement: share of images on which exactly one of them is right.
    """

    first: int
    second: int
    overlap: float | None
    q: float | None
    disagreement: float


def candidates(members: int, rules: int) -> int:
    """Count what there is to score: every subset of two members or more, by every rule."""
    return ((1 << members) - members - 1) * rules


def score(
    probabilities: NDArray[np.float64],
    labels: ArrayLike,
    groups: Sequence[str],
    rules: Mapping[str, Ensemble],
    watch: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[Candidate]:
    """Score every subset of two members or more by every rule, and return all, the best first.

    The score is Brier's, which is proper, is defined for shares of votes too, where a log loss may not be, and tells
    apart what accuracy of a few hundred images does not. Where a rule is fitted, it is fitted to four fifths of the
    images and scored on the last, five times over, patients whole, since on what it was fitted to it would always win;
    all rules are then scored fifth by fifth, so that they compare (one that ranks images sees as many of them as the
    others do). Of equals the one with fewer members is better, then that of the first members and rules.

    Args:
        probabilities: of the members for validation images, (members, n, classes).
        labels: true ones, (n,).
        groups: patient of each image, (n,).
        rules: by name.
        watch: told how many candidates of how many are done.

    Raises:
        DataError: a class is of fewer than two patients, so that nothing can be fitted to some and scored on others.
        PluginError: a rule failed, or its scores are not finite.
    """
    truth = np.asarray(labels)
    everything = np.arange(len(truth))
    folds = _folds(truth, groups) if any(map(_is_fitted, rules.values())) else [(everything, everything)]
    parts = [(probabilities[:, fit], truth[fit], probabilities[:, held], held) for fit, held in folds]
    wanted = np.eye(probabilities.shape[2])[truth]
    subsets = [s for size in range(2, len(probabilities) + 1) for s in combinations(range(len(probabilities)), size)]
    found = []
    for subset in subsets:
        chosen = list(subset)
        for name, rule in rules.items():
            scores = np.empty_like(wanted)
            try:
                for of_fit, fit_labels, of_held, held in parts:
                    fitted = rule.fit(of_fit[chosen], fit_labels) if _is_fitted(rule) else rule
                    scores[held] = fitted.combine(of_held[chosen]).scores
            except HarnessError:
                raise
            except Exception as error:  # a plugin's, whatever it raises
                raise PluginError(f"the rule {name} failed: {type(error).__name__}: {error}. {_LEAVE}") from error
            brier = float(((scores - wanted) ** 2).sum(axis=1).mean())
            if not np.isfinite(brier):
                raise PluginError(f"the rule {name} gave a score that is not finite. {_LEAVE}")
            found.append(Candidate(subset, name, brier))
        watch(len(found), len(subsets) * len(rules))
    order = {name: place for place, name in enumerate(rules)}
    # scores of the same images in another order differ in their last digits
    return sorted(found, key=lambda one: (round(one.brier, 12), len(one.members), one.members, order[one.rule]))


def diversity(labels: ArrayLike, predictions: Sequence[ArrayLike]) -> list[Diversity]:
    """Compare the errors of every two members; ``labels`` (n,), and ``predictions`` (n,) of each."""
    truth = np.asarray(labels)
    rights = [np.asarray(predicted) == truth for predicted in predictions]
    found = []
    for (first, one), (second, other) in combinations(enumerate(rights), 2):
        both, neither = int((one & other).sum()), int((~one & ~other).sum())
        only = int((one & ~other).sum()), int((~one & other).sum())
        wrong, scale = neither + sum(only), both * neither + only[0] * only[1]
        found.append(
            Diversity(
                first,
                second,
                neither / wrong if wrong else None,
                (both * neither - only[0] * only[1]) / scale if scale else None,
                sum(only) / len(truth),
            )
        )
    return found


def oracle(labels: ArrayLike, predictions: Sequence[ArrayLike]) -> int:
    """Count the images that at least one member is right on, which no choice among their answers can exceed."""
    truth = np.asarray(labels)
    return int(np.any([np.asarray(predicted) == truth for predicted in predictions], axis=0).sum())


def _is_fitted(rule: Ensemble) -> bool:
    return type(rule).fit is not Ensemble.fit


def _folds(labels: NDArray[np.int64], groups: Sequence[str]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    from sklearn.model_selection import StratifiedGroupKFold

    patients = [len(set(np.asarray(groups)[labels == label])) for label in np.unique(labels)]
    number = min(FOLDS, *patients) if patients else 0
    if number < 2:
        raise DataError(
            "a class of the validation images is of a single patient, so that no rule can be fitted to some patients "
            "and scored on others"
        )
    return list(StratifiedGroupKFold(number, shuffle=True, random_state=0).split(labels, labels, groups))
