from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.data.archive import open_tree
from harness.data.decode import decode, release
from harness.data.manifest import duplicate_groups, groups_in_several_splits, manifest_path, read_manifest
from harness.data.splits import leak, limit_train, move_images
from harness.errors import DataError
from harness_plugins.datasets.chest_xray import ChestXray, patient
from harness_plugins.datasets.imagefolder import ImageFolder
from image_trees import broken_images, encoded, grey, kaggle, write_folder, write_zip

SMALL = {"val_normal": 2, "val_pneumonia": 3}


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_HOME", str(tmp_path / "home"))


def _add(source: Path, root: str | None = None) -> None:
    ChestXray().add("chest-xray", source, root=root, progress=lambda *_: None)


def _load(**options: object):
    return ChestXray().load("chest-xray", ChestXray.Options(**{**SMALL, **options}))


def _decode(splits, size: int = 24):
    notes: list[str] = []
    return decode(splits, splits.train, size, lambda *_: None, notes.append), notes


@pytest.mark.parametrize("as_zip", [True, False])
def test_kaggles_layout_from_a_zip_or_a_folder(tmp_path: Path, as_zip: bool) -> None:
    files = kaggle() | {"__MACOSX/chest_xray/train/NORMAL/._IM-1.jpeg": b"x", "chest_xray/train/.DS_Store": b"x"}
    source = write_zip(tmp_path / "x.zip", files) if as_zip else write_folder(tmp_path / "x", files)
    _add(source)
    splits = _load()
    assert [len(refs) for refs in splits.named().values()] == [12, 5, 4]
    assert splits.images.grey
    images, _ = _decode(splits)
    assert images.shape == (12, 24, 24, 1)
    first = next(iter(splits.images.read([splits.train[0].id])))
    assert np.array_equal(images[0, ..., 0], np.asarray(first.convert("L")))


def test_the_same_images_have_the_same_fingerprint_wherever_they_lie(tmp_path: Path) -> None:
    _add(write_zip(tmp_path / "x.zip", kaggle()))
    first = _load().fingerprint
    _add(write_folder(tmp_path / "x", kaggle(root="")))
    assert _load().fingerprint == first
    assert _load(split_seed=1).fingerprint != first


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("person1453_bacteria_3770.jpeg", "bacteria-1453"),
        ("person1453_virus_1.jpeg", "virus-1453"),
        ("person328_virus_681_2.jpeg", "virus-328"),
        ("IM-0115-0001.jpeg", "IM-0115"),
        ("NORMAL2-IM-0115-0001-0002.jpeg", "NORMAL2-IM-0115"),
    ],
)
def test_patients_are_read_from_names(name: str, expected: str) -> None:
    assert patient(name) == expected


def test_a_name_without_a_patient_is_refused(tmp_path: Path) -> None:
    files = kaggle() | {"chest_xray/train/NORMAL/holiday.jpeg": encoded(grey())}
    with pytest.raises(DataError, match=r"holiday\.jpeg.*which patient"):
        _add(write_zip(tmp_path / "x.zip", files))


@pytest.mark.parametrize("kind", list(broken_images()))
def test_an_image_that_cannot_be_used_is_named_with_its_fault(tmp_path: Path, kind: str) -> None:
    content, said = broken_images()[kind]
    bad = "train/NORMAL/IM-0000-0001.jpeg"
    for add in (
        lambda: _add(write_zip(tmp_path / "x.zip", kaggle() | {f"chest_xray/{bad}": content})),
        lambda: ImageFolder().load(
            "f", ImageFolder.Options(path=str(write_folder(tmp_path / "f", kaggle("") | {bad: content})))
        ),
    ):
        with pytest.raises(DataError) as caught:
            add()
        assert "IM-0000-0001.jpeg" in str(caught.value)
        assert said in str(caught.value)
        assert "1 of 21 files" in str(caught.value)
    assert not manifest_path("chest-xray").exists(), "nothing is registered"


def test_archives_that_cannot_be_used(tmp_path: Path) -> None:
    text = tmp_path / "text.zip"
    text.write_text("no zip")
    with pytest.raises(DataError, match="is no zip file"):
        _add(text)
    cut = write_zip(tmp_path / "cut.zip", kaggle())
    cut.write_bytes(cut.read_bytes()[:-400])
    with pytest.raises(DataError, match="cut off or damaged"):
        _add(cut)
    with pytest.raises(DataError, match="points outside the archive"):
        _add(write_zip(tmp_path / "evil.zip", kaggle() | {"../../evil": b"x"}))
    with pytest.raises(DataError, match="there is nothing at"):
        _add(tmp_path / "missing.zip")
    with pytest.raises(DataError, match="has no images in train/NORMAL"):
        _add(write_zip(tmp_path / "other.zip", {"cats/1.jpeg": encoded(grey()), "dogs/1.jpeg": encoded(grey())}))


def test_two_copies_that_differ_are_not_guessed_from(tmp_path: Path) -> None:
    other = kaggle("chest_xray/chest_xray/")
    other["chest_xray/chest_xray/test/NORMAL/NORMAL2-IM-0003-0001.jpeg"] = encoded(grey(99))
    source = write_zip(tmp_path / "x.zip", kaggle("chest_xray/") | other)
    with pytest.raises(DataError, match=r"more than once: chest_xray \(21 images\).*--root"):
        _add(source)
    _add(source, root="chest_xray/chest_xray")
    assert len(_load().test) == 5
    with pytest.raises(DataError, match="--root nowhere"):
        _add(source, root="nowhere")


def test_of_two_copies_that_are_the_same_one_is_taken(tmp_path: Path) -> None:
    _add(write_zip(tmp_path / "one.zip", kaggle()))
    one = _load().fingerprint
    _add(write_zip(tmp_path / "two.zip", kaggle("chest_xray/") | kaggle("chest_xray/chest_xray/")))
    assert _load().fingerprint == one


def test_a_class_without_images_is_refused(tmp_path: Path) -> None:
    files = {name: content for name, content in kaggle("").items() if "test/NORMAL" not in name}
    with pytest.raises(DataError, match=r"test/NORMAL.*holds no image"):
        _add(write_folder(tmp_path / "x", files))


def test_a_source_that_moved_or_changed_is_noticed(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "x.zip", kaggle())
    _add(source)
    splits = _load()
    write_zip(source, kaggle() | {"more": b"x"})
    with pytest.raises(DataError, match=r"has changed since its images were verified.*harness data add"):
        _load()
    source.unlink()
    with pytest.raises(DataError, match="no longer there"):
        list(splits.images.read([splits.train[0].id]))


def test_more_validation_images_than_there_are(tmp_path: Path) -> None:
    _add(write_zip(tmp_path / "x.zip", kaggle()))
    with pytest.raises(DataError, match="none would stay"):
        _load(val_normal=100)


def test_not_added_says_the_ways_out() -> None:
    with pytest.raises(DataError) as caught:
        _load()
    for way in ("data fetch", "data add", "--data phantom"):
        assert way in str(caught.value)


def test_limit_keeps_proportions_and_refuses_the_impossible(tmp_path: Path) -> None:
    _add(write_zip(tmp_path / "x.zip", kaggle()))
    splits = _load()
    limited = limit_train(splits, 6, seed=0)
    assert len(limited.train) == 6
    assert {ref.label for ref in limited.train} == {0, 1}
    assert limited.test == splits.test
    assert limit_train(splits, 6, seed=0).train == limited.train
    for n in (1, 1000):
        with pytest.raises(DataError, match=f"--limit-train {n}"):
            limit_train(splits, n, seed=0)


# --- the decoded cache -----------------------------------------------------------------------------------------------


def test_decoded_images_are_cached_and_a_damaged_cache_is_made_again(tmp_path: Path) -> None:
    _add(write_zip(tmp_path / "x.zip", kaggle()))
    splits = _load()
    first = np.array(_decode(splits)[0])
    (cached,) = (tmp_path / "home" / "cache" / "decoded").glob("*.npy")
    made = cached.stat().st_mtime_ns
    assert np.array_equal(_decode(splits)[0], first)
    assert cached.stat().st_mtime_ns == made
    whole = cached.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for damaged in (whole[:-100], whole[:200], b"", bytes(flipped)):
        cached.write_bytes(damaged)
        images, notes = _decode(splits)
        assert np.array_equal(images, first)
        assert notes == [f"{cached} is damaged; its images are decoded again"]
        assert cached.read_bytes() == whole
    images[:] = 0
    assert cached.read_bytes() == whole, "what a run does to its images reaches no other run"


def test_images_are_squashed_as_pillow_does(tmp_path: Path) -> None:
    _add(write_zip(tmp_path / "x.zip", kaggle()))
    splits = _load()
    images, _ = _decode(splits, size=16)
    original = next(iter(splits.images.read([splits.train[3].id]))).convert("L")
    assert np.array_equal(images[3, ..., 0], np.asarray(original.resize((16, 16), Image.Resampling.BILINEAR)))


def test_without_room_for_a_cache_images_are_held_in_memory_and_it_is_said(tmp_path: Path) -> None:
    _add(write_zip(tmp_path / "x.zip", kaggle()))
    (tmp_path / "home" / "cache").write_text("a file where the folder should be")
    images, notes = _decode(_load())
    assert images.shape == (12, 24, 24, 1)
    assert "held in memory" in notes[0]


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's account of the process's memory")
def test_images_that_were_read_are_not_held(tmp_path: Path) -> None:
    _add(write_zip(tmp_path / "x.zip", kaggle()))
    splits = _load()
    images, _ = _decode(splits, size=512)

    def held() -> int:
        lines = Path("/proc/self/smaps").read_text().splitlines()
        start = next(index for index, line in enumerate(lines) if str(tmp_path) in line and line.endswith(".npy"))
        return next(int(line.split()[1]) for line in lines[start:] if line.startswith("Rss:"))

    assert held() == 0, "their checksums were"
    before = images.copy()
    assert held() > 0
    release(images)
    assert held() == 0
    assert np.array_equal(images, before)


def test_a_cache_that_is_cleared_while_it_is_filled_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _add(write_zip(tmp_path / "x.zip", kaggle()))
    monkeypatch.setattr("harness.data.decode._open", lambda _path, _shape: None)
    images, notes = _decode(_load())
    assert images.shape == (12, 24, 24, 1)
    assert "cannot be read again); they are held in memory" in notes[-1]


# --- imagefolder -----------------------------------------------------------------------------------------------------


def _folder(tmp_path: Path, **options: object):
    return ImageFolder().load("imagefolder", ImageFolder.Options(path=str(tmp_path / "f"), **options))


def _photo(seed: int) -> bytes:
    return encoded(Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)), "PNG")


def test_any_folder_of_class_folders(tmp_path: Path) -> None:
    names = [f"{kind}/{n}.png" for kind in ("cat", "dog", "emu") for n in range(10)]
    write_folder(tmp_path / "f", {name: _photo(seed) for seed, name in enumerate(names)})
    splits = _folder(tmp_path)
    assert splits.classes == ("cat", "dog", "emu")
    assert [len(refs) for refs in splits.named().values()] == [18, 6, 6]
    assert not splits.images.grey
    assert _decode(splits)[0].shape == (18, 24, 24, 3)


def test_splits_that_are_there_are_kept_and_groups_are_not_torn(tmp_path: Path) -> None:
    names = [f"train/{kind}/p{n // 2}_{n}.png" for kind in "ab" for n in range(12)]
    names += [f"test/{kind}/p{n // 2 + 90}_{n}.png" for kind in "ab" for n in range(12)]
    write_folder(tmp_path / "f", {name: _photo(seed) for seed, name in enumerate(names)})
    splits = _folder(tmp_path, group_pattern=r"(p\d+)_", val_fraction=0.3)
    assert len(splits.test) == 24
    assert leak(splits.val, splits.train) == 0
    assert len(splits.val) > 0
    with pytest.raises(DataError, match="does not match the file name"):
        _folder(tmp_path, group_pattern=r"(q\d+)_")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"a/1.png": _photo(1)}, "at least two classes"),
        ({"train/a/1.png": _photo(1), "train/b/1.png": _photo(2), "test/a/1.png": _photo(3)}, "test/b.*holds no image"),
        ({"train/a/1.png": _photo(1), "other/b/1.png": _photo(2)}, "mixes splits"),
        ({"1.png": _photo(1), "a/1.png": _photo(1), "b/1.png": _photo(2)}, "outside the class folders"),
    ],
)
def test_folders_that_make_no_data_set(tmp_path: Path, files: dict[str, bytes], said: str) -> None:
    write_folder(tmp_path / "f", files)
    with pytest.raises(DataError, match=said):
        _folder(tmp_path)


def test_copies_of_an_image_stay_on_one_side(tmp_path: Path) -> None:
    files = {
        f"{kind}/{n}_{copy}.png": _photo(n + 50 * (kind == "b")) for kind in "ab" for n in range(10) for copy in "xy"
    }
    write_folder(tmp_path / "f", files)
    splits = _folder(tmp_path)
    contents = [{ref.sha256 for ref in refs} for refs in splits.named().values()]
    assert not contents[0] & contents[1]
    assert not contents[0] & contents[2]
    assert not contents[1] & contents[2]


def test_other_files_may_come_and_go_beside_the_images(tmp_path: Path) -> None:
    write_folder(
        tmp_path / "f", {f"{kind}/{n}.png": _photo(n + 50 * (kind == "b")) for kind in "ab" for n in range(10)}
    )
    splits = _folder(tmp_path)
    (tmp_path / "f" / "benchmark.db").write_text("written while the run goes on")
    assert len(_decode(splits)[0]) == len(splits.train)
    (tmp_path / "f" / splits.train[0].id).write_bytes(_photo(99))
    with pytest.raises(DataError, match="has changed since it was verified"):
        list(splits.images.read([splits.train[0].id]))


def test_an_empty_class_folder_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "f", {"a/1.png": _photo(1), "b/1.png": _photo(2)})
    (tmp_path / "f" / "c").mkdir()
    with pytest.raises(DataError, match=r"class folder c .*holds no image"):
        _folder(tmp_path)


# --- the real data set -----------------------------------------------------------------------------------------------


def test_the_real_data_set(real_images: Path) -> None:
    _add(real_images)
    manifest = read_manifest(manifest_path("chest-xray"), "")
    assert manifest is not None
    assert {split: sum(counts.values()) for split, counts in manifest.counts().items()} == {"train": 5216, "test": 624}
    assert manifest.counts()["test"] == {"NORMAL": 234, "PNEUMONIA": 390}
    duplicates = duplicate_groups(manifest)
    assert (len(duplicates), sum(map(len, duplicates))) == (30, 62)
    assert groups_in_several_splits(manifest) == ()
    assert manifest.grey

    plain, grouped = (ChestXray().load("chest-xray", ChestXray.Options(split=split)) for split in ("paper", "grouped"))
    assert [len(refs) for refs in plain.named().values()] == [4916, 300, 624]
    assert leak(grouped.val, grouped.train) == 0
    assert len(grouped.val) == pytest.approx(300, abs=5)
    train = manifest.refs("train")
    draws = [move_images(train, {0: 100, 1: 200}, seed) for seed in range(20)]
    leaks = [leak(moved, stay) for stay, moved in draws]
    assert sum(leaks) / len(leaks) == pytest.approx(0.39, abs=0.02)


def test_unreadable_places_are_said(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "x", kaggle(""))
    with open_tree(folder) as tree:
        (folder / "train").rename(folder / "gone")
        with pytest.raises(DataError, match="cannot be read"):
            tree.read("train/NORMAL/IM-0000-0001.jpeg")
