from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from harness.api import ImageRef, ImageSplits
from harness.data.splits import check_splits, fold_groups, leak, limit_train, move_groups, move_images
from harness.errors import DataError


def _refs(*sizes: int, label: int = 0) -> tuple[ImageRef, ...]:
    """One group for each size."""
    return tuple(
        ImageRef(f"{label}/{group:04d}-{number}", label, f"{label}-{group}", "")
        for group, size in enumerate(sizes)
        for number in range(size)
    )


MANY = (*_refs(*[1, 2, 3, 7] * 30), *_refs(*[1, 1, 2] * 40, label=1))


def _counts(refs: tuple[ImageRef, ...]) -> Counter[int]:
    return Counter(ref.label for ref in refs)


@pytest.mark.parametrize("move", [move_images, move_groups])
@pytest.mark.parametrize("seed", range(3))
def test_the_wanted_numbers_move_and_the_order_of_images_does_not_matter(move, seed: int) -> None:
    stay, moved = move(MANY, {0: 50, 1: 31}, seed)
    assert _counts(moved) == {0: 50, 1: 31}
    assert sorted((*stay, *moved), key=lambda ref: ref.id) == sorted(MANY, key=lambda ref: ref.id)
    backwards = move(MANY[::-1], {0: 50, 1: 31}, seed)
    assert [set(side) for side in backwards] == [set(stay), set(moved)]
    assert move(MANY, {0: 50, 1: 31}, seed + 1)[1] != moved


@pytest.mark.parametrize("seed", range(3))
def test_groups_stay_whole_and_those_already_taken_go_first(seed: int) -> None:
    taken = frozenset({"0-3", "1-5"})
    stay, moved = move_groups(MANY, {0: 50, 1: 31}, seed, taken)
    assert leak(moved, stay) == 0
    assert taken <= {ref.group for ref in moved}
    assert _counts(moved) == {0: 50, 1: 31}
    assert leak(*reversed(move_images(MANY, {0: 50, 1: 31}, seed))) > 0


def test_large_groups_come_as_near_as_they_can() -> None:
    for seed in range(5):
        assert len(move_groups(_refs(*[4] * 10), {0: 10}, seed)[1]) in (8, 12)
        assert len(move_groups(_refs(5, 5, 5), {0: 3}, seed)[1]) == 5


@pytest.mark.parametrize("refs", [_refs(9), _refs(9, 1, label=0) + _refs(4, label=1)])
def test_too_few_groups_are_refused(refs: tuple[ImageRef, ...]) -> None:
    with pytest.raises(DataError, match="too few groups"):
        move_groups(refs, dict.fromkeys(_counts(refs), 2), 0)


def test_folds_hold_each_image_once_and_no_group_is_torn() -> None:
    folds = [fold_groups(MANY, 5, fold, seed=3) for fold in range(5)]
    assert Counter(ref.id for _, held in folds for ref in held) == Counter(ref.id for ref in MANY)
    for stay, held in folds:
        assert leak(held, stay) == 0
        assert abs(len(held) - len(MANY) / 5) < 0.2 * len(MANY)
        assert _counts(held).keys() == {0, 1}
    assert fold_groups(MANY, 5, 0, seed=4)[1] != folds[0][1]
    assert set(fold_groups(MANY[::-1], 5, 0, seed=3)[1]) == set(folds[0][1])


@pytest.mark.parametrize(
    ("refs", "message"),
    [
        (_refs(1, 1, 1), "label 0 is of 3 groups .*divided into 5 folds"),
        (_refs(9, *[1] * 20), "the group .* 0-0 has 9 images, more than one of 5 folds of 29 images; take fewer"),
    ],
)
def test_what_cannot_be_folded_says_why(refs: tuple[ImageRef, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        fold_groups(refs, 5, 0, 0)


def test_nothing_of_an_empty_split_is_shared() -> None:
    assert leak((), MANY) == 0


def test_limits_keep_proportions_and_nest() -> None:
    splits = ImageSplits(("a", "b"), _refs(*[1] * 30) + _refs(*[1] * 10, label=1), (), (), images=None)  # type: ignore[arg-type]
    small, large = (limit_train(splits, n, seed=3).train for n in (8, 20))
    assert _counts(small) == {0: 6, 1: 2}
    assert set(small) < set(large)
    assert list(small) == [ref for ref in splits.train if ref in small]
    assert limit_train(splits, 40, seed=3).train == splits.train
    with pytest.raises(DataError, match="b would have none"):
        limit_train(splits, 1, seed=3)
    with pytest.raises(DataError, match="the val split has no image of a, b"):
        check_splits(replace(splits))


def test_a_files_size_does_not_change_the_fingerprint() -> None:
    refs = {split: (ImageRef(f"{split}/é.png", 1, "p1", split * 8, size=7),) for split in ("train", "val", "test")}
    splits = ImageSplits(("a", "b"), **refs, images=None)  # type: ignore[arg-type]
    # of the first release: databases hold such digests
    assert splits.fingerprint == "aba946512af5060e7953a396394d0603139999fcce9624f81ed3f62c9b15f133"
    bare = {split: (replace(ref, size=None),) for split, (ref,) in refs.items()}
    assert replace(splits, **bare).fingerprint == splits.fingerprint
