"""The audit that reads every image: of generated ones, of small files, and of the real X-rays."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.api import ImageRef, ImageSplits
from harness.data.audit import audit
from harness.data.manifest import manifest_path
from harness.data.record import describe
from harness.data.splits import leak, move_images
from harness.errors import DataError
from harness.results import Passport
from harness_plugins.datasets.chest_xray import ChestXray
from harness_plugins.datasets.imagefolder import ImageFolder
from image_trees import encoded, kaggle, write_folder, write_zip

SMALL = {"val_normal": 2, "val_pneumonia": 3}


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_HOME", str(tmp_path / "home"))


def _load(**options: object) -> ImageSplits:
    return ChestXray().load("chest-xray", ChestXray.Options(**options))


def _audit(splits: ImageSplits) -> Passport:
    return audit(splits, lambda *_: None)


class _Pixels:
    """Images that are one grey each, by their id."""

    grey = True

    def __init__(self, **greys: int) -> None:
        self.greys = greys

    def read(self, ids):
        for id_ in ids:
            yield Image.new("L", (4 + self.greys[id_] % 2, 4), self.greys[id_])


def test_means_sizes_and_modes_are_those_of_the_images() -> None:
    names = [f"{split}{n}" for split in ("train", "val", "test") for n in range(40)]
    greys = {name: 100 + 20 * (n % 2) for n, name in enumerate(names)}
    named = {
        split: tuple(ImageRef(f"{split}{n}", n % 2, f"{split}{n // 4}", f"{split}{n}") for n in range(40))
        for split in ("train", "val", "test")
    }
    steps: list[tuple[int, int]] = []
    passport = audit(ImageSplits(("a", "b"), **named, images=_Pixels(**greys)), lambda *step: steps.append(step))
    assert steps == [(done, 120) for done in range(1, 121)]
    (mean,) = passport.baselines or ()
    assert (mean.name, mean.rule) == ("mean intensity", "a below 110.0 of 255, else b")
    assert mean.auc["test"] == 1
    assert passport.verdict == "suspect"
    assert passport.pictures is not None
    assert (passport.pictures.sizes, passport.pictures.modes) == (1, {"L": 120})
    assert passport.pictures.width == passport.pictures.height == (4, 4)
    assert "file sizes are unknown" in passport.notes[0]


def test_file_sizes_are_those_of_the_files_and_their_absence_is_said(tmp_path: Path) -> None:
    files = kaggle()
    ChestXray().add("chest-xray", write_zip(tmp_path / "x.zip", files), root=None, progress=lambda *_: None)
    splits = _load(**SMALL)
    for refs in splits.named().values():
        assert [ref.size for ref in refs] == [len(files[f"chest_xray/{ref.id}"]) for ref in refs]
    passport = _audit(splits)
    assert [one.name for one in passport.baselines or ()] == ["file size", "mean intensity"]
    assert passport.notes == ()

    path = manifest_path("chest-xray")  # as a release without sizes wrote it
    manifest = json.loads(path.read_text())
    for image in manifest["images"]:
        del image["size"]
    path.write_text(json.dumps(manifest))
    old = _load(**SMALL)
    assert old.fingerprint == splits.fingerprint
    passport = _audit(old)
    assert [one.name for one in passport.baselines or ()] == ["mean intensity"]
    assert "`harness data add`" in passport.notes[0]


def test_a_folders_index_without_sizes_is_made_anew(tmp_path: Path) -> None:
    photos = {
        f"{kind}/{n}.png": encoded(Image.new("L", (4, 4), 9 * n + ord(kind)), "PNG") for kind in "ab" for n in range(9)
    }
    folder = write_folder(tmp_path / "f", photos)
    options = ImageFolder.Options(path=str(folder))
    splits = ImageFolder().load("imagefolder", options)
    (index,) = (tmp_path / "home").rglob("indexes/*.json")
    manifest = json.loads(index.read_text())
    for image in manifest["images"]:
        del image["size"]
    index.write_text(json.dumps(manifest))
    again = ImageFolder().load("imagefolder", options)
    assert again == ImageSplits(**{**vars(splits), "images": again.images})
    assert all(ref.size for ref in again.train)
    assert "Patients are unknown" in _audit(again).because


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "x", kaggle())
    ChestXray().add("chest-xray", folder, root=None, progress=lambda *_: None)
    splits = _load(**SMALL)
    (folder / "chest_xray" / splits.test[0].id).write_bytes(b"x")
    with pytest.raises(DataError, match=f"{splits.test[0].id} .* has changed"):
        _audit(splits)


def test_the_real_data_set(real_images: Path) -> None:
    ChestXray().add("chest-xray", real_images, root=None, progress=lambda *_: None)
    plain, grouped = _load(split="paper"), _load(split="grouped")
    assert plain.fingerprint.startswith("fd6344ae39df8551")  # as in the databases of earlier releases

    passport = _audit(plain)
    assert passport.verdict == "leaky"
    assert [reason.spoils for reason in passport.reasons if reason.verdict == "leaky"] == [("val",)]
    assert (passport.duplicate_groups, passport.duplicate_files, passport.conflicts) == (30, 62, 0)
    shared = {(one.first, one.second): (one.patients, one.files) for one in passport.overlaps}
    assert shared["train", "test"] == shared["val", "test"] == (0, 0)
    assert passport.pictures is not None
    assert passport.pictures.modes == {"RGB": 5840}
    size = next(one for one in passport.baselines or () if one.name == "file size")
    assert size.auc["test"] == pytest.approx(0.83, abs=0.01)
    assert passport.majority is not None
    assert passport.majority.accuracy["test"] == pytest.approx(390 / 624)
    cheap = describe("chest-xray", ChestXray(), plain).passport
    assert cheap is not None
    assert (cheap.verdict, cheap.overlaps, cheap.majority) == ("leaky", passport.overlaps, passport.majority)

    passport = describe("chest-xray", ChestXray(), grouped).passport
    assert passport is not None
    assert passport.verdict == "suspect"
    assert not any(one.images for one in passport.overlaps)

    whole = (*plain.train, *plain.val)
    draws = [leak(moved, stay) for stay, moved in (move_images(whole, {0: 100, 1: 200}, seed) for seed in range(200))]
    assert np.mean(draws) == pytest.approx(0.39, abs=0.01)
