from __future__ import annotations

import hashlib
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from harness.api import Download, RemoteFile
from harness.data.decode import decode
from harness.errors import DataError
from harness.testing.conformance import check_dataset
from harness_plugins.datasets.pneumoniamnist import PneumoniaMNIST
from image_trees import medmnist

NAME = "pneumoniamnist"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_HOME", str(tmp_path / "home"))


def _published(*files: Path) -> PneumoniaMNIST:
    """The plugin, whose publisher offers these files (named by their size) instead."""

    class Small(PneumoniaMNIST):
        downloads = {  # noqa: RUF012
            file.stem: Download(
                (RemoteFile("https://x", file.name, hash=f"md5:{hashlib.md5(file.read_bytes()).hexdigest()}"),)
            )
            for file in files
        }

    return Small()


def _add(dataset: PneumoniaMNIST, source: Path, root: str | None = None) -> list[tuple[int, int]]:
    steps: list[tuple[int, int]] = []
    dataset.add(NAME, source, root=root, progress=lambda *step: steps.append(step))
    return steps


def _load(dataset: PneumoniaMNIST, size: int):
    return dataset.load(NAME, dataset.Options(size=size))


def test_splits_labels_groups_and_pixels_are_the_files(tmp_path: Path) -> None:
    source = medmnist(tmp_path / "28.npz", 28)
    dataset = _published(source)
    assert _add(dataset, source)[-1] == (40, 40)
    splits = _load(dataset, 28)
    assert splits.classes == ("normal", "pneumonia")
    assert splits.images.grey
    with np.load(source) as arrays:
        for split, refs in splits.named().items():
            assert [ref.label for ref in refs] == arrays[f"{split}_labels"][:, 0].tolist()
            found = [np.asarray(image) for image in splits.images.read([ref.id for ref in refs])]
            assert np.array_equal(found, arrays[f"{split}_images"])
    groups = [ref.group for ref in splits.train]
    assert groups[0] == groups[1]
    assert len(set(groups)) == len(groups) - 1
    images = decode(splits, splits.val, 56, lambda *_: None, print)
    assert images.shape == (8, 56, 56, 1)


def test_images_are_read_in_any_order(tmp_path: Path) -> None:
    source = medmnist(tmp_path / "28.npz", 28)
    dataset = _published(source)
    _add(dataset, source)
    splits = _load(dataset, 28)
    refs = [splits.test[5], splits.train[9], splits.test[2], splits.train[3], splits.train[9]]
    with np.load(source) as arrays:
        expected = [arrays[f"{split}_images"][i] for split, i in (("test", 5), ("train", 9), ("test", 2), ("train", 3))]
    found = [np.asarray(image) for image in splits.images.read([ref.id for ref in refs])]
    assert np.array_equal(found[:4], expected)
    assert np.array_equal(found[4], expected[1])


def test_sizes_are_files_of_their_own_side_by_side(tmp_path: Path) -> None:
    files = [medmnist(tmp_path / f"{size}.npz", size) for size in (28, 64)]
    dataset = _published(*files)
    _add(dataset, files[0])
    with pytest.raises(DataError, match=r"data\.size=64.*harness data fetch pneumoniamnist --from 64.*64\.npz"):
        _load(dataset, 64)
    _add(dataset, files[1])
    read = [next(iter(_load(dataset, size).images.read(["val/00003"]))).size for size in (28, 64)]
    assert read == [(28, 28), (64, 64)]


def test_it_conforms(tmp_path: Path) -> None:
    source = medmnist(tmp_path / "28.npz", 28)
    dataset = _published(source)
    _add(dataset, source)
    assert [found for found in check_dataset(dataset, NAME, dataset.Options(size=28)) if not found.passed] == []


def test_another_file_than_the_published_is_refused(tmp_path: Path) -> None:
    source = medmnist(tmp_path / "28.npz", 28)
    with pytest.raises(DataError, match=r"md5:\w+\) is none of the published files: pneumoniamnist_224\.npz"):
        _add(PneumoniaMNIST(), source)
    with pytest.raises(DataError, match=r"missing\.npz cannot be read"):
        _add(PneumoniaMNIST(), tmp_path / "missing.npz")
    with pytest.raises(DataError, match="--root x"):
        _add(_published(source), source, root="x")


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"train_images": np.zeros((24, 30, 28), np.uint8)}, "not uint8 (n, 28, 28)"),
        ({"train_images": np.zeros((24, 28, 28), np.float32)}, "float32"),
        ({"train_images": np.zeros((24, 28, 28, 3), np.uint8)}, "not uint8 (n, 28, 28)"),
        ({"train_images": np.array([{}] * 24, dtype=object)}, "object"),
        ({"train_images": np.zeros((20, 28, 28), np.uint8)}, "are not 20 of 0 and 1"),
        ({"val_labels": np.full((8, 1), 2, np.uint8)}, "are not 8 of 0 and 1"),
        ({"val_labels": np.array([print] * 8, dtype=object)}, "allow_pickle"),
    ],
)
def test_a_file_of_another_layout_is_one_message(tmp_path: Path, other: dict[str, np.ndarray], said: str) -> None:
    source = medmnist(tmp_path / "28.npz", 28, **other)
    with pytest.raises(DataError) as caught:
        _add(_published(source), source)
    assert said in str(caught.value)


def test_a_file_that_is_no_npz_or_lacks_an_array_is_one_message(tmp_path: Path) -> None:
    text = tmp_path / "28.npz"
    text.write_text("text")
    with pytest.raises(DataError, match="is no zip"):
        _add(_published(text), text)
    np.savez(text, train_images=np.zeros((1, 28, 28), np.uint8))
    with pytest.raises(DataError, match="does not hold images and labels"):
        _add(_published(text), text)


def test_a_source_that_moved_or_changed_is_noticed(tmp_path: Path) -> None:
    source = medmnist(tmp_path / "28.npz", 28)
    dataset = _published(source)
    _add(dataset, source)
    splits, before = _load(dataset, 28), source.stat()
    np.savez(source, **{f"{split}_images": np.zeros((24, 28, 28), np.uint8) for split in ("train", "val", "test")})
    with pytest.raises(DataError, match=r"has changed since.*harness data add"):
        _load(dataset, 28)
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(DataError, match=r"train/00000 .*has changed since"):
        list(splits.images.read([splits.train[0].id]))
    source.unlink()
    with pytest.raises(DataError, match="no longer there"):
        _load(dataset, 28)
    with pytest.raises(DataError, match="cannot be read"):
        list(splits.images.read([splits.train[0].id]))


def test_the_arrays_are_never_in_memory(tmp_path: Path) -> None:

    big = np.random.default_rng(0).integers(0, 256, (600, 224, 224), dtype=np.uint8)
    labels = (np.arange(600, dtype=np.uint8) % 2)[:, None]
    source = medmnist(tmp_path / "224.npz", 224, train_images=big, train_labels=labels)
    dataset = _published(source)
    tracemalloc.start()
    _add(dataset, source)
    splits = _load(dataset, 224)
    for _ in splits.images.read([ref.id for ref in splits.train]):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < big.nbytes / 4


def test_the_published_files_are_those_of_zenodo() -> None:
    hashes = {size: file.hash for size, download in PneumoniaMNIST.downloads.items() for file in download.files}
    assert next(iter(hashes)) == str(PneumoniaMNIST.Options().size)
    assert hashes["28"] == "md5:28209eda62fecd6e6a2d98b1501bb15f"
    assert {file.url for download in PneumoniaMNIST.downloads.values() for file in download.files} == {
        f"https://zenodo.org/records/10519652/files/pneumoniamnist{suffix}.npz?download=1"
        for suffix in ("", "_64", "_128", "_224")
    }
