"""The verdict on a data set, on splits small enough to say by hand what it must be."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from itertools import count

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.tree import DecisionTreeClassifier

from harness.analysis.audit import Number, examine
from harness.api import ImageRef, ImageSplits
from harness.results import Passport
from harness.store.codec import to_passport

CLASSES = ("NORMAL", "PNEUMONIA")
_NUMBERS = count()


def _refs(split: str, *, patients: int = 6, images: int = 2) -> tuple[ImageRef, ...]:
    """So many patients of each class in turn, each with so many images; every one differs."""
    return tuple(
        ImageRef(f"{split}/{patient}-{image}", patient % 2, f"{split}-{patient}", f"{next(_NUMBERS):064}")
        for patient in range(patients)
        for image in range(images)
    )


def _splits(classes: tuple[str, ...] = CLASSES, **changed: tuple[ImageRef, ...]) -> ImageSplits:
    named = {split: _refs(split) for split in ("train", "val", "test")} | changed
    return ImageSplits(classes, **named, images=None)  # type: ignore[arg-type]


def _said(passport: Passport) -> str:
    return "\n".join(f"{reason.verdict}: {reason.text}" for reason in passport.reasons)


def test_nothing_wrong_is_clean() -> None:
    passport = examine(_splits())
    assert passport.verdict == "clean"
    assert passport.because == "No patient and no file is in two splits, and no file is there twice."
    assert passport.patients == {"train": 6, "val": 6, "test": 6}
    assert passport.notes == ("nobody has looked at the images themselves: `harness data audit`",)
    assert passport.baselines is None
    assert to_passport(json.loads(json.dumps(asdict(passport)))) == passport


def test_a_patient_in_train_and_val_spoils_validation_alone() -> None:
    splits = _splits()
    passport = examine(replace(splits, val=(*splits.val, replace(splits.train[0], id="val/x", sha256="x"))))
    assert passport.verdict == "leaky"
    assert [(reason.verdict, reason.spoils) for reason in passport.reasons] == [("leaky", ("val",))]
    assert "1 of 13 validation images (8 %)" in passport.because
    assert "test figures are not" in passport.because


def test_a_patient_in_train_and_test_spoils_the_test() -> None:
    splits = _splits()
    both = (*splits.test, replace(splits.train[0], id="test/x", sha256="x"))
    passport = examine(replace(splits, test=both))
    assert [(reason.verdict, reason.spoils) for reason in passport.reasons] == [("leaky", ("test",))]
    assert "test figures are optimistic" in passport.because
    again = examine(replace(splits, test=both, val=(*splits.val, replace(splits.train[1], id="val/x", sha256="y"))))
    assert "test figures are not" not in _said(again)
    assert [reason.spoils for reason in again.reasons if reason.verdict == "leaky"] == [("val",), ("test",), ("test",)]


def test_an_identical_file_leaks_whatever_patient_it_is_said_to_show() -> None:
    splits = _splits()
    passport = examine(replace(splits, test=(*splits.test, replace(splits.train[0], id="test/x", group="another"))))
    assert passport.verdict == "leaky"
    assert "1 of 13 test images (8 %) are the same files as training images" in passport.because
    assert (passport.duplicate_groups, passport.duplicate_files, passport.conflicts) == (1, 2, 0)


def test_val_and_test_must_not_share_either() -> None:
    splits = _splits()
    passport = examine(replace(splits, test=(*splits.test, replace(splits.val[0], id="test/x", sha256="x"))))
    assert passport.verdict == "leaky"
    assert "was chosen with them" in passport.because


def test_duplicates_in_a_split_and_labels_that_conflict_are_suspect() -> None:
    train = _refs("train")
    twice = replace(train[0], id="train/twice\udcff")
    passport = examine(_splits(train=(*train, twice)))
    assert (passport.verdict, passport.conflicts) == ("suspect", 0)
    assert passport.because == "1 group of identical files in train (2 files)."
    passport = examine(_splits(train=(*train, replace(twice, label=1))))
    assert (passport.verdict, passport.conflicts) == ("suspect", 1)
    assert "such as train/0-0 (NORMAL) and train/twice\\udcff (PNEUMONIA)" in passport.because


@pytest.mark.parametrize("named_by", ["id", "sha256"])
def test_unknown_patients_are_said_and_not_clean(named_by: str) -> None:
    splits = _splits()
    alone = {
        split: tuple(replace(ref, group=getattr(ref, named_by)) for ref in refs)
        for split, refs in splits.named().items()
    }
    passport = examine(_splits(**alone))
    assert (passport.verdict, passport.patients) == ("suspect", None)
    assert "patients are unknown" in _said(passport)
    same = examine(_splits(**alone | {"test": (*alone["test"], replace(alone["train"][0], id="test/x"))}))
    assert same.verdict == "leaky"
    assert "the same files as training images" in same.because


def test_one_patient_one_class_and_empty_splits_are_said() -> None:
    splits = _splits()
    one = {split: tuple(replace(ref, group="p") for ref in refs) for split, refs in splits.named().items()}
    passport = examine(_splits(**one))
    assert passport.verdict == "leaky"
    assert "all images are of one patient, 'p'" in _said(passport)
    normal = {split: tuple(replace(ref, label=0) for ref in refs) for split, refs in splits.named().items()}
    passport = examine(_splits(**normal), _numbers(_splits(**normal), lambda _ref: 1.0))
    assert "there is one class, NORMAL" in _said(passport)
    assert passport.baselines is not None
    assert passport.baselines[0].auc == {}
    passport = examine(_splits(val=()))
    assert passport.verdict == "clean"
    assert passport.notes[0] == "there is no validation split"
    assert "val" not in passport.majority.accuracy  # type: ignore[union-attr]
    for split in ("train", "test"):
        empty = _splits(**{split: ()})
        passport = examine(empty, _numbers(empty, lambda ref: float(ref.label)))
        assert passport.verdict == "suspect"
        assert "split is empty" in _said(passport)
    nothing = examine(_splits(train=(), val=(), test=()), [])
    assert (nothing.verdict, nothing.majority) == ("suspect", None)
    lacking = examine(_splits(val=tuple(ref for ref in splits.val if ref.label)))
    assert "the validation split has no image of NORMAL" in _said(lacking)


# --- trivial baselines -----------------------------------------------------------------------------------------------


def _numbers(splits: ImageSplits, of) -> list[Number]:
    values = {split: np.array([of(ref) for ref in refs], float) for split, refs in splits.named().items()}
    return [Number("file size", "bytes", values)]


def test_threshold_and_direction_are_learned_on_train_alone() -> None:
    splits = _splits(test=_refs("test", patients=60))
    baseline = (examine(splits, _numbers(splits, lambda ref: 10.0 - 4 * ref.label)).baselines or ())[0]
    assert baseline.rule == "PNEUMONIA below 8.0 bytes, else NORMAL"
    assert baseline.accuracy == {"train": 1, "val": 1, "test": 1}
    assert baseline.auc == {"train": 1, "val": 1, "test": 1}
    turned = _numbers(splits, lambda ref: 10.0 - 4 * ref.label)
    turned[0].values["test"][:] = 16 - turned[0].values["test"]
    passport = examine(splits, turned)
    baseline = (passport.baselines or ())[0]
    assert (baseline.accuracy["test"], baseline.auc["test"]) == (0, 0)
    assert passport.verdict == "clean"


@pytest.mark.parametrize("classes", [2, 3])
def test_baselines_are_those_of_scikit_learn(classes: int) -> None:
    rng = np.random.default_rng(classes)
    named = {
        split: tuple(
            ImageRef(f"{split}/{n}", int(label), f"{split}-{n // 2}", f"{split}{n}")
            for n, label in enumerate(rng.integers(classes, size=400))
        )
        for split in ("train", "val", "test")
    }
    splits = _splits(tuple("abc"[:classes]), **named)
    number = _numbers(splits, lambda ref: ref.label * 4 + round(rng.normal(0, 4)))[0]  # with ties
    baseline = (examine(splits, [number]).baselines or ())[0]
    labels = {split: np.array([ref.label for ref in refs]) for split, refs in named.items()}
    stump = DecisionTreeClassifier(max_depth=1).fit(number.values["train"][:, None], labels["train"])
    assert baseline.accuracy["train"] >= stump.score(number.values["train"][:, None], labels["train"])
    if classes == 2:
        thresholds = np.unique(number.values["train"])
        best = max(np.mean((number.values["train"] >= one) == labels["train"]) for one in thresholds)
        assert baseline.accuracy["train"] == pytest.approx(best)
    areas = []
    for label in [1] if classes == 2 else range(classes):
        area = {split: roc_auc_score(labels[split] == label, number.values[split]) for split in ("train", "test")}
        areas.append(area["test"] if area["train"] >= 0.5 else 1 - area["test"])
    assert baseline.auc["test"] == pytest.approx(np.mean(areas))


def test_a_number_that_tells_classes_apart_is_suspect_unless_few_images_say_so() -> None:
    many, few = (_splits(test=_refs("test", patients=n)) for n in (60, 4))
    perfect = [examine(splits, _numbers(splits, lambda ref: float(ref.label))) for splits in (many, few)]
    assert [(passport.baselines or ())[0].auc["test"] for passport in perfect] == [1, 1]
    assert [passport.verdict for passport in perfect] == ["suspect", "clean"]
    assert "File size alone tells the classes of test apart with an AUC of 1.00" in perfect[0].because
    rng = np.random.default_rng(0)
    chance = examine(many, _numbers(many, lambda _ref: rng.random()))
    assert chance.verdict == "clean"
    assert "no trivial number" in chance.because


def test_always_the_most_frequent_class_of_train() -> None:
    train = _refs("train")
    splits = _splits(train=(*train[:4], *(ref for ref in train[4:] if ref.label == 0)), test=_refs("test", patients=5))
    majority = examine(splits).majority
    assert majority is not None
    assert majority.rule == "always NORMAL"
    assert majority.accuracy["test"] == pytest.approx(3 / 5)
