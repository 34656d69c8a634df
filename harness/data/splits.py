"""Who is in train, val and test: pure functions, the same for the same seed and images in any order."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from numpy.random import PCG64, Generator

from harness.api import Dataset, DatasetOptions, ImageRef, ImageSplits
from harness.errors import DataError

__all__ = ["check_splits", "fold_groups", "leak", "limit_train", "load_splits", "move_groups", "move_images"]

Refs = tuple[ImageRef, ...]


def move_images(refs: Sequence[ImageRef], per_class: Mapping[int, int], seed: int) -> tuple[Refs, Refs]:
    """Draw images at random, whatever their group: so many of each label.

    Returns:
        Those that stay and those drawn, each in the order of ``refs``.

    Raises:
        DataError: a label does not have that many and one to stay.
    """
    rng = Generator(PCG64(seed))
    moved: set[str] = set()
    for label, number in sorted(per_class.items()):
        ids = sorted(ref.id for ref in refs if ref.label == label)
        if number >= len(ids):
            raise DataError(f"{number} of {len(ids)} images of label {label} cannot be moved: none would stay")
        moved.update(rng.choice(ids, number, replace=False).tolist())
    return _part(refs, moved)


def move_groups(
    refs: Sequence[ImageRef], per_class: Mapping[int, int], seed: int, taken: frozenset[str] = frozenset()
) -> tuple[Refs, Refs]:
    """Draw whole groups until their images come as near to so many of each label as groups allow.

    The groups of ``taken``, which stand on the other side already, go first. The others are walked through in an order
    drawn from the seed, and each that fits into what is still wanted of every label is taken. What then remains is
    filled, one group at a time, by the one that brings the numbers nearest, for as long as one does.

    Returns:
        Those that stay and those drawn, each in the order of ``refs``; no group is in both.

    Raises:
        DataError: a label would have none on one of the sides.
    """
    groups: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for ref in refs:
        groups[ref.group][ref.label] += 1
    wanted = Counter(per_class)
    chosen = {group for group in groups if group in taken}
    for group in sorted(chosen):
        wanted.subtract(groups[group])
    names = sorted(groups.keys() - chosen)
    order = [names[index] for index in Generator(PCG64(seed)).permutation(len(names))]
    for group in order:
        if all(number <= wanted[label] for label, number in groups[group].items()):
            chosen.add(group)
            wanted.subtract(groups[group])
    while left := [group for group in order if group not in chosen]:
        gains = [
            sum(abs(wanted[label]) - abs(wanted[label] - number) for label, number in groups[group].items())
            for group in left
        ]
        if max(gains) <= 0:
            break
        group = left[gains.index(max(gains))]
        chosen.add(group)
        wanted.subtract(groups[group])
    stay, moved = _part(refs, {ref.id for ref in refs if ref.group in chosen})
    for label, number in per_class.items():
        sides = [sum(ref.label == label for ref in side) for side in (stay, moved)]
        if sides[0] == 0 or (sides[1] == 0 and number > 0):
            raise DataError(
                f"the {sum(sides)} images of label {label} are in too few groups to be divided without tearing one"
            )
    return stay, moved


def fold_groups(refs: Sequence[ImageRef], folds: int, fold: int, seed: int) -> tuple[Refs, Refs]:
    """Divide images into folds of whole groups, with the labels as evenly spread as groups allow (scikit-learn's
    ``StratifiedGroupKFold``).

    Returns:
        The images of the other folds and those of ``fold``, each in the order of ``refs``.

    Raises:
        DataError: there are fewer groups of a label than folds, or a group is larger than a fold.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    ordered = sorted(refs, key=lambda ref: ref.id)
    labels, groups = [ref.label for ref in ordered], [ref.group for ref in ordered]
    for label in sorted(set(labels)):
        number = len({ref.group for ref in ordered if ref.label == label})
        if number < folds:
            raise DataError(
                f"label {label} is of {number} groups (patients), which cannot be divided into {folds} folds"
            )
    name, largest = Counter(groups).most_common(1)[0]
    if largest > len(ordered) / folds:
        raise DataError(
            f"the group (patient) {name} has {largest} images, more than one of {folds} folds of {len(ordered)} "
            "images; take fewer folds"
        )
    parts = StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(labels, labels, groups)
    chosen = [drawn for _, drawn in parts][fold]
    return _part(refs, {ordered[index].id for index in chosen})


def _part(refs: Sequence[ImageRef], moved: set[str]) -> tuple[Refs, Refs]:
    return tuple(ref for ref in refs if ref.id not in moved), tuple(ref for ref in refs if ref.id in moved)


def load_splits(dataset: Dataset, name: str, options: DatasetOptions, limit: int | None, seed: int) -> ImageSplits:
    """Return the splits that a run trains and is tested on.

    Args:
        dataset: the plugin.
        name: the plugin's name.
        options: its options.
        limit: train on so many images; None for all.
        seed: of the draw of those.

    Raises:
        DataError: the data is not there or cannot be used.
    """
    splits = dataset.load(name, options)
    return splits if limit is None else limit_train(splits, limit, seed)


def limit_train(splits: ImageSplits, n: int, seed: int) -> ImageSplits:
    """Keep ``n`` training images, with the classes in the proportions that they have; the other splits stay whole.

    Each class's share is rounded by largest remainder, and its images are drawn at random: for one seed, a smaller
    ``n`` keeps a part of what a larger one keeps of each class.

    Raises:
        DataError: there are fewer than ``n``, or so few are asked for that a class would have none.
    """
    total = len(splits.train)
    if n > total:
        raise DataError(f"--limit-train {n}: the training split has {total} images")
    counts = Counter(ref.label for ref in splits.train)
    shares = {label: divmod(n * counts[label], total) for label in sorted(counts)}
    number = {label: share for label, (share, _) in shares.items()}
    by_remainder = sorted(shares, key=lambda label: (-shares[label][1], label))
    for label in by_remainder[: n - sum(number.values())]:
        number[label] += 1
    if missing := [splits.classes[label] for label in number if number[label] == 0]:
        raise DataError(
            f"--limit-train {n}: too few of {total} for every class to have an image ({', '.join(missing)} would have "
            "none)"
        )
    rng = Generator(PCG64(seed))
    kept: set[str] = set()
    for label in sorted(counts):
        ids = sorted(ref.id for ref in splits.train if ref.label == label)
        kept.update(ids[index] for index in rng.permutation(len(ids))[: number[label]])
    return replace(splits, train=tuple(ref for ref in splits.train if ref.id in kept))


def leak(split: Sequence[ImageRef], train: Sequence[ImageRef]) -> float:
    """Return the share of a split's images whose group is also in the training split; 0 of an empty split."""
    groups = {ref.group for ref in train}
    return sum(ref.group in groups for ref in split) / max(len(split), 1)


def check_splits(splits: ImageSplits) -> ImageSplits:
    """Return ``splits`` if each one has an image of every class.

    Raises:
        DataError: a class is missing somewhere.
    """
    for name, refs in splits.named().items():
        missing = set(range(len(splits.classes))) - {ref.label for ref in refs}
        if missing:
            raise DataError(f"the {name} split has no image of {', '.join(splits.classes[i] for i in sorted(missing))}")
    return splits
