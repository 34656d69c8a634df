"""What a data set's figures are worth: what its splits share, and how far one gets without looking at an image. Pure.

The rules, all of them here. The verdict is the worst that applies:

``leaky``
    A patient (:attr:`harness.api.ImageRef.group`) or an identical file is in two splits. In train and test, test
    figures are too good. In train and val, validation figures are, and nothing else; the epoch to test is chosen by
    them. In val and test, the epoch was chosen with images like those that it is tested on.
``suspect``
    - Each image is a group of its own, so that nothing can be said of patients; or all are of one.
    - Identical files have different labels, or one split has a file more than once.
    - There is but one class, or a split lacks some; train or test is empty.
    - A number that says nothing of what an image shows tells the classes of test apart with an AUC of at least
      :data:`SURPRISING`, and of at least three standard errors above 0.5, so that few images are not taken for
      evidence. What a network reaches may then rest on how images were made, not on what they show.
``clean``
    Nothing of that. While nobody has looked at the images themselves, this does not cover the last point.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from harness.analysis.metrics import accuracy, rank_auc
from harness.api import ImageRef, ImageSplits
from harness.results import Baseline, Overlap, Passport, Pictures, Reason, Verdict

__all__ = ["SURPRISING", "Number", "examine"]

# An AUC of 0.7 is where discrimination begins to be called acceptable (Hosmer and Lemeshow, Applied Logistic
# Regression, section 5.2.4): a number that knows nothing of the question should not reach what a useful test does.
SURPRISING = 0.70
_STANDARD_ERRORS = 3

_ORDER: tuple[Verdict, ...] = ("clean", "suspect", "leaky")
_EVALUATED = ("val", "test")
_WORDS = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class Number:
    """One number an image, such as its file's size: ``values`` (n,) by split, in the order of the split's images."""

    name: str
    unit: str
    values: Mapping[str, NDArray[np.float64]]


def examine(
    splits: ImageSplits,
    numbers: Sequence[Number] | None = None,
    pictures: Pictures | None = None,
    notes: Sequence[str] = (),
) -> Passport:
    """Judge a data set by the rules above.

    Args:
        splits: whose ids, labels, groups and hashes are looked at, and no pixel.
        numbers: by which to tell the classes apart; None where they were not measured.
        pictures: what was found in the images, for the passport.
        notes: what could not be measured, for the passport.
    """
    named = splits.named()
    refs = [ref for of_split in named.values() for ref in of_split]
    same: defaultdict[str, list[tuple[str, ImageRef]]] = defaultdict(list)
    for split, of_split in named.items():
        for ref in of_split:
            same[ref.sha256].append((split, ref))
    duplicates = [group for group in same.values() if len(group) > 1]
    conflicts = [group for group in duplicates if len({ref.label for _, ref in group}) > 1]
    contents: defaultdict[str, set[str]] = defaultdict(set)
    for ref in refs:
        contents[ref.group].add(ref.sha256)
    known = any(len(of_group) > 1 for of_group in contents.values())
    overlaps = tuple(
        _overlap(first, second, named, patients=known)
        for first, second in combinations(named, 2)
        if named[first] and named[second]
    )
    learned = [_baseline(number, splits) for number in numbers or ()]

    reasons = [
        *_leaks(overlaps),
        *_patients(contents, known=known),
        *_duplicates(duplicates, conflicts, splits.classes),
        *_classes(splits),
        *(reason for baseline in learned for reason in _surprise(baseline, splits)),
    ]
    verdict: Verdict = max((reason.verdict for reason in reasons), key=_ORDER.index, default="clean")
    if not reasons:
        found = ["no patient and no file is in two splits", "no file is there twice"]
        found += ["no trivial number tells the classes of test apart"] if numbers else []
        reasons = [Reason("clean", f"{', '.join(found[:-1])}, and {found[-1]}")]
    absent = [] if named["val"] else ["there is no validation split"]
    absent += ["nobody has looked at the images themselves: `harness data audit`"] if numbers is None else []
    return Passport(
        verdict=verdict,
        reasons=tuple(sorted(reasons, key=lambda reason: -_ORDER.index(reason.verdict))),
        notes=(*absent, *notes),
        patients={split: len({ref.group for ref in of_split}) for split, of_split in named.items()} if known else None,
        duplicate_groups=len(duplicates),
        duplicate_files=sum(map(len, duplicates)),
        conflicts=len(conflicts),
        overlaps=overlaps,
        majority=_majority(splits),
        baselines=None if numbers is None else tuple(learned),
        pictures=pictures,
    )


# --- what splits share -----------------------------------------------------------------------------------------------


def _overlap(first: str, second: str, named: Mapping[str, Sequence[ImageRef]], *, patients: bool) -> Overlap:
    files = {ref.sha256 for ref in named[first]} & {ref.sha256 for ref in named[second]}
    groups = {ref.group for ref in named[first]} & {ref.group for ref in named[second]} if patients else set()
    images = sum(ref.sha256 in files or ref.group in groups for ref in named[second])
    return Overlap(first, second, len(groups) if patients else None, len(files), images, len(named[second]))


def _leaks(overlaps: Sequence[Overlap]) -> Iterator[Reason]:
    test_is_clean = not any(overlap.images for overlap in overlaps if overlap.second == "test")
    for one in overlaps:
        if not one.images:
            continue
        first, second = _WORDS[one.first], _WORDS[one.second]
        share = f"{one.images} of {one.total} {second} images ({100 * one.images / one.total:.0f} %)"
        if one.patients:
            files = f", and {one.files} of these files {'is' if one.files == 1 else 'are'} in both" if one.files else ""
            text = f"{share} show a patient whom {first} images show too{files}"
        else:
            text = f"{share} are the same files as {first} images"
        if one.first == "val":
            text += ": the epoch that is tested was chosen with them, so test figures are a little optimistic"
        elif one.second == "val":
            text += ": validation figures are optimistic"
            text += "; test figures are not, as test shares nothing with the others" if test_is_clean else ""
        else:
            text += ": test figures are optimistic"
        yield Reason("leaky", text, (one.second,))


def _patients(contents: Mapping[str, set[str]], *, known: bool) -> Iterator[Reason]:
    if contents and not known:
        yield Reason(
            "suspect",
            "patients are unknown, as each image is a group of its own: nobody can say whether one is in two splits",
        )
    elif len(contents) == 1:
        yield Reason("suspect", f"all images are of one patient, {next(iter(contents))!r}")


def _duplicates(
    duplicates: Sequence[Sequence[tuple[str, ImageRef]]],
    conflicts: Sequence[Sequence[tuple[str, ImageRef]]],
    classes: Sequence[str],
) -> Iterator[Reason]:
    if conflicts:
        labels = {ref.label: ref.id for _, ref in conflicts[0]}
        such = " and ".join(f"{_printable(id_)} ({classes[label]})" for label, id_ in sorted(labels.items()))
        yield Reason("suspect", f"{_groups(len(conflicts))} of identical files with different labels, such as {such}")
    for split in _WORDS:
        within = [number for group in duplicates if (number := sum(found == split for found, _ in group)) > 1]
        if within:
            yield Reason("suspect", f"{_groups(len(within))} of identical files in {split} ({sum(within)} files)")


def _printable(text: str) -> str:
    """Escape what file names may hold and UTF-8 may not."""
    return text.encode("utf-8", "backslashreplace").decode()


def _groups(n: int) -> str:
    return f"{n} group{'' if n == 1 else 's'}"


def _classes(splits: ImageSplits) -> Iterator[Reason]:
    named = splits.named()
    for split in ("train", "test"):
        if not named[split]:
            yield Reason("suspect", f"the {_WORDS[split]} split is empty")
    present = {split: {ref.label for ref in refs} for split, refs in named.items() if refs}
    occurring = set().union(*present.values())
    if len(occurring) == 1:
        yield Reason("suspect", f"there is one class, {splits.classes[occurring.pop()]}: nothing is told apart")
        return
    for split, labels in present.items():
        if missing := [name for label, name in enumerate(splits.classes) if label not in labels]:
            yield Reason("suspect", f"the {_WORDS[split]} split has no image of {', '.join(missing)}")


# --- trivial baselines -----------------------------------------------------------------------------------------------


def _labels(refs: Sequence[ImageRef]) -> NDArray[np.int64]:
    return np.array([ref.label for ref in refs], np.int64)


def _majority(splits: ImageSplits) -> Baseline | None:
    """Always answer the class that train has most of."""
    counts = Counter(ref.label for ref in splits.train)
    if not counts:
        return None
    label = min(counts, key=lambda one: (-counts[one], one))
    right = {
        split: accuracy(_labels(refs), np.full(len(refs), label)) for split, refs in splits.named().items() if refs
    }
    return Baseline("most frequent class", f"always {splits.classes[label]}", right)


def _baseline(number: Number, splits: ImageSplits) -> Baseline:
    """Tell the classes apart by one number an image, with what train says of threshold and direction."""
    named = {split: refs for split, refs in splits.named().items() if refs}
    if "train" not in named:
        return Baseline(number.name, "nothing to learn from", {})
    train, values = _labels(named["train"]), number.values
    threshold, below, above = _stump(values["train"], train, len(splits.classes))
    signs = {
        label: 1 if rank_auc(train == label, values["train"]) >= 0.5 else -1
        for label in _ranked(train, len(splits.classes))
    }
    areas = {}
    for split, refs in named.items():
        labels = _labels(refs)
        ranked = [label for label in _ranked(labels, len(splits.classes)) if label in signs]
        if ranked:
            found = [rank_auc(labels == label, signs[label] * values[split]) for label in ranked]
            areas[split] = float(np.mean(found))
    rule = f"always {splits.classes[below]}"
    if below != above:
        rule = f"{splits.classes[below]} below {threshold:,.1f} {number.unit}, else {splits.classes[above]}"
    right = {
        split: accuracy(_labels(refs), np.where(values[split] < threshold, below, above))
        for split, refs in named.items()
    }
    return Baseline(number.name, rule, right, areas)


def _stump(values: NDArray[np.float64], labels: NDArray[np.int64], classes: int) -> tuple[float, int, int]:
    """Return the threshold, and the classes below and from it on, that are right on most images."""
    order = np.argsort(values, kind="stable")
    values, below = values[order], np.cumsum(np.eye(classes, dtype=np.int64)[labels[order]], axis=0)
    most = int(below[-1].argmax())
    cuts = np.flatnonzero(values[:-1] < values[1:])
    right = below[cuts].max(axis=1) + (below[-1] - below[cuts]).max(axis=1)
    if not len(cuts) or right.max() <= below[-1].max():
        return math.inf, most, most
    cut = cuts[right.argmax()]
    return (
        float((values[cut] + values[cut + 1]) / 2),
        int(below[cut].argmax()),
        int((below[-1] - below[cut]).argmax()),
    )


def _ranked(labels: NDArray[np.int64], classes: int) -> list[int]:
    """Name the classes whose AUC against the rest is looked at: of two, the second, as everywhere in harness."""
    occurring = np.unique(labels).tolist()
    if len(occurring) < 2:
        return []
    return [1] if classes == 2 else occurring


def _surprise(baseline: Baseline, splits: ImageSplits) -> Iterator[Reason]:
    found = baseline.auc.get("test")
    if found is None:
        return
    labels = _labels(splits.test)
    positives = [int((labels == label).sum()) for label in _ranked(labels, len(splits.classes))]
    n = len(labels)
    error = max(math.sqrt((n + 1) / (12 * one * (n - one))) for one in positives)  # Mann and Whitney 1947
    bound = max(SURPRISING, 0.5 + _STANDARD_ERRORS * error)
    if found >= bound:
        yield Reason(
            "suspect",
            f"{baseline.name} alone tells the classes of test apart with an AUC of {found:.2f} ({bound:.2f} and more "
            "is beyond chance, and as good as a useful test): figures may rest on how images were made",
        )
