"""Chest X-Ray Images (Pneumonia): the images that the paper used, added by the user from the publisher's file."""

from __future__ import annotations

import os
import re
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from harness.api import Dataset, DatasetOptions, Download, ImageSplits, RemoteFile
from harness.data.archive import Tree, open_tree
from harness.data.files import atomic_write
from harness.data.manifest import (
    Candidate,
    ManifestImages,
    build_manifest,
    manifest_path,
    read_manifest,
    write_manifest,
)
from harness.data.splits import check_splits, fold_groups, move_groups, move_images
from harness.errors import DataError, did_you_mean

__all__ = ["ChestXray", "patient"]

CLASSES = ("NORMAL", "PNEUMONIA")
_SPLITS = ("train", "val", "test")
_NAMES = (
    # bacteria and virus count their patients separately
    re.compile(r"person(?P<number>\d+)_(?P<kind>bacteria|virus)_\d+(?:_\d+)*\.\w+"),
    re.compile(r"(?P<kind>NORMAL2-IM|IM)-(?P<number>\d+)-\d+(?:-\d+)*\.\w+"),
    # the authors' later release numbers its studies anew
    re.compile(r"(?P<kind>BACTERIA|VIRUS|NORMAL)-(?P<number>\d+)-\d+\.\w+"),
)

_HUB = "https://huggingface.co"
_HUB_SPLITS = {"train": "train", "validation": "val", "test": "test"}
_AT_ONCE = 16  # images in memory at once


@dataclass(frozen=True)
class HuggingFace(Download):
    """The copy of a repository of the Hugging Face Hub, in Parquet files, which are made into a zip in Kaggle's layout.

    The Hub's API lists the files: ``{config: {split: [url, ...]}}``. A row is an image: ``image`` (a struct of
    ``bytes``, the JPEG file, and ``path``, its name) and ``label`` (0 NORMAL, 1 PNEUMONIA), by what is published of
    others who read these files; the Hub itself was out of reach where this was written. So every row is checked: the
    name says which patient the image shows, and of which class, and the label has to agree. ``HF_ENDPOINT`` names a
    mirror of the Hub.
    """

    repository: str = field(kw_only=True)

    def find(self, read_json: Callable[[str], Any]) -> tuple[RemoteFile, ...]:
        """Return the Parquet files, named by their split."""
        _parquet()  # if it is not installed, that is better said before the download
        hub = os.environ.get("HF_ENDPOINT", _HUB).rstrip("/")
        address = f"{hub}/api/datasets/{self.repository}/parquet"
        listed = read_json(address)
        try:
            (splits,) = listed.values()
            urls = {_HUB_SPLITS[split]: [str(url) for url in of_split] for split, of_split in splits.items()}
            if not urls["train"] or not urls["test"]:
                raise ValueError("no files")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{address} lists no files of one configuration in train, validation and test: {str(listed)[:200]}"
            ) from error
        return tuple(
            RemoteFile(re.sub(f"^{_HUB}(?=/)", hub, url), f"{split}-{number:05d}-{self.made}.parquet")
            for split, of_split in urls.items()
            for number, url in enumerate(of_split)
        )

    def make(self, paths: Sequence[Path], target: Path) -> None:
        """Write the zip, a few images at a time in memory."""
        with atomic_write(target) as file, zipfile.ZipFile(file, "w") as archive:
            for path in paths:
                split = path.name.partition("-")[0]
                for content, name, label in _rows(path):
                    expected = int(patient(name).lower().startswith(("bacteria", "virus")))
                    if label != expected:
                        raise DataError(
                            f"{name} in {path} has the label {label}, where its name says {CLASSES[expected]}"
                        )
                    member = f"{split}/{CLASSES[expected]}/{name}"
                    if member in archive.NameToInfo:
                        raise DataError(f"{path} holds {member} once more")
                    archive.writestr(zipfile.ZipInfo(member), content)  # of no date: the same images, the same file


def _rows(path: Path) -> Iterator[tuple[bytes, str, int]]:
    """Yield an image file's content, its name and its label for each row of a Parquet file."""
    pyarrow, parquet = _parquet()
    try:
        with parquet.ParquetFile(path, pre_buffer=False) as table:
            for batch in table.iter_batches(_AT_ONCE, columns=["image", "label"]):
                for row in batch.to_pylist():
                    image, label = row["image"], row["label"]
                    yield memoryview(image["bytes"]).tobytes(), PurePosixPath(image["path"] or "").name, label
    except (pyarrow.ArrowException, OSError, KeyError, TypeError) as error:
        raise DataError(f"{path} has no image (bytes and path) and label in each row: {error}") from error


def _parquet() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise DataError(
            "the files on Hugging Face are Parquet, which needs pyarrow; run: pip install pyarrow"
        ) from error
    return pyarrow, parquet


class ChestXrayOptions(DatasetOptions):
    """Which training images become val."""

    split: Literal["paper", "grouped", "folds"] = Field(
        "paper",
        description="paper: val drawn image by image; grouped: no patient is on two sides; folds: val is one of "
        "several parts of the patients outside test",
    )
    split_seed: int = Field(0, ge=0, description="seed of that draw")
    val_normal: int = Field(100, ge=1, description="NORMAL images moved from train to val")
    val_pneumonia: int = Field(200, ge=1, description="PNEUMONIA images moved from train to val")
    folds: int = Field(5, ge=2, le=100, description="how many parts (split=folds)")
    fold: int = Field(0, ge=0, description="which of them is val, from 0 (split=folds)")

    @model_validator(mode="after")
    def _within(self) -> ChestXrayOptions:
        if self.fold >= self.folds:
            raise ValueError(f"fold {self.fold} of {self.folds}: they are counted from 0")
        return self


class ChestXray(Dataset):
    """Paediatric chest X-rays, normal against pneumonia; patients are read from the file names.

    None of the sources could be reached where this was written. Known of Mendeley's file is its size, of Kaggle's
    neither size nor hash, of Hugging Face's what :class:`HuggingFace` says. So every image is verified after the
    download, whatever its source, and the counts are compared with those of ``releases``.
    """

    Options: ClassVar[type[DatasetOptions]] = ChestXrayOptions
    subtypes: ClassVar[Mapping[str, str]] = {"bacteria": "bacteria-", "virus": "virus-"}
    citation = (
        "Kermany, Daniel; Zhang, Kang; Goldbaum, Michael (2018): Labeled Optical Coherence Tomography (OCT) and Chest "
        "X-Ray Images for Classification. Mendeley Data, V2, doi 10.17632/rscbjbr9sj.2"
    )
    licence = "CC BY 4.0"
    downloads: ClassVar[Mapping[str, Download]] = {
        "mendeley": Download(
            (
                RemoteFile(
                    "https://data.mendeley.com/public-files/datasets/rscbjbr9sj/files/"
                    "f12eaf6d-6023-432f-acc9-80c9d7393433/file_downloaded",
                    "ChestXRay2017.zip",
                    size=1_235_512_464,
                ),
            )
        ),
        "huggingface": HuggingFace(
            repository="hf-vision/chest-xray-pneumonia", made="huggingface-chest-xray-pneumonia.zip"
        ),
        # what kagglehub asks for: it leads to a zip, whose size and hash are not published
        "kaggle": Download(
            (
                RemoteFile(
                    "https://www.kaggle.com/api/v1/datasets/download/paultimothymooney/chest-xray-pneumonia",
                    "kaggle-chest-xray-pneumonia.zip",
                ),
            )
        ),
    }
    releases: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "Kaggle's": {"train": 5216, "val": 16, "test": 624},
        "Kaggle's without its 16 val images": {"train": 5216, "test": 624},
        "Mendeley Data V2": {"train": 5232, "test": 624},
    }

    def load(self, name: str, options: DatasetOptions) -> ImageSplits:
        """Return the splits of the images that were added."""
        assert isinstance(options, ChestXrayOptions)  # noqa: S101
        cure = f"run `harness data add {name} --from FILE_OR_FOLDER`"
        manifest = read_manifest(manifest_path(name), cure)
        if manifest is None:
            raise DataError(
                f"the images of {name!r} have not been added. Either `harness data fetch {name}` downloads them "
                f"(1.2 GB; --from names a source: {', '.join(self.downloads)}), or `harness data add {name} --from "
                "FILE_OR_FOLDER` takes a zip or folder that you have, or `--data phantom` uses generated images"
            )
        images = ManifestImages(manifest, cure)
        images.check()
        train, val, test = map(manifest.refs, _SPLITS)
        per_class = dict(enumerate((options.val_normal, options.val_pneumonia)))
        if options.split == "paper":
            train, moved = move_images(train, per_class, options.split_seed)
        else:
            if options.split == "folds":
                train, moved = fold_groups((*train, *val), options.folds, options.fold, options.split_seed)
                val = ()
            else:
                train, moved = move_groups(train, per_class, options.split_seed, frozenset(ref.group for ref in val))
            sides = [{ref.group for ref in refs} for refs in (train, (*val, *moved), test)]
            if torn := sorted((sides[0] | sides[1]) & sides[2]):
                raise DataError(
                    f"data.split={options.split}: {len(torn)} patients of the test split are also outside it, such as "
                    f"{torn[0]}; data.split=paper accepts that"
                )
        return check_splits(ImageSplits(manifest.classes, train, (*val, *moved), test, images))

    def add(self, name: str, source: Path, *, root: str | None, progress: Callable[[int, int], None]) -> Path:
        """Verify and register Kaggle's layout, ``{train,test[,val]}/{NORMAL,PNEUMONIA}/*``, at any depth."""
        with open_tree(source) as tree:
            place = _root(tree, root)
            manifest = build_manifest(tree, "" if place == "." else place, CLASSES, _candidates(tree, place), progress)
        path = manifest_path(name)
        write_manifest(path, manifest)
        return path


def patient(filename: str) -> str:
    """Return the patient that a file name carries, such as ``bacteria-12`` or ``NORMAL2-IM-1427``.

    Raises:
        DataError: the name is of no kind that the published data has.
    """
    for pattern in _NAMES:
        if match := pattern.fullmatch(filename):
            return f"{match['kind']}-{match['number']}"
    raise DataError(
        f"the file name {filename!r} does not say which patient it shows; expected person12_bacteria_34.jpeg, "
        "IM-0115-0001.jpeg or NORMAL2-IM-1427-0001.jpeg. For images named otherwise use --data imagefolder:FOLDER"
    )


def _place(name: str) -> tuple[str, str, str, str] | None:
    """Take ``ROOT/train/NORMAL/FILE`` apart; None for a file in no such place. The tree itself is the root ``.``."""
    *root, split, class_name, filename = "", "", *name.split("/")
    if split not in _SPLITS or class_name not in CLASSES:
        return None
    return "/".join(root[2:]) or ".", split, class_name, filename


def _root(tree: Tree, wanted: str | None) -> str:
    """Return the folder that holds the splits, ``.`` for the tree itself."""
    found = Counter(place[0] for file in tree.files if (place := _place(file.name)))
    if not found:
        raise DataError(
            f"{tree.path} has no images in train/NORMAL, train/PNEUMONIA, test/NORMAL and test/PNEUMONIA, at any depth"
        )
    if wanted is not None:
        root = PurePosixPath(wanted).as_posix()
        if root not in found:
            raise DataError(f"--root {wanted}: {tree.path} has no such images there. {did_you_mean(root, found)}")
        return root
    if len(found) > 1 and not _copies(tree, found):
        several = ", ".join(f"{root} ({number} images)" for root, number in sorted(found.items()))
        raise DataError(f"{tree.path} holds the images more than once: {several}; name one with --root")
    return min(found, key=lambda root: (len(root), root))


def _copies(tree: Tree, roots: Iterable[str]) -> bool:
    """Tell whether all roots hold the same names and sizes, as of Kaggle's zip, which is said to hold two copies."""
    held: defaultdict[str, set[tuple[tuple[str, ...], int]]] = defaultdict(set)
    for file in tree.files:
        if place := _place(file.name):
            held[place[0]].add((place[1:], file.size))
    first, *others = (held[root] for root in roots)
    return all(other == first for other in others)


def _candidates(tree: Tree, root: str) -> list[Candidate]:
    candidates = []
    seen: set[tuple[str, str]] = set()
    for file in tree.files:
        place = _place(file.name)
        if place is None or place[0] != root:
            continue
        _, split, class_name, filename = place
        seen.add((split, class_name))
        candidates.append(Candidate(f"{split}/{class_name}/{filename}", split, class_name, patient(filename)))
    with_val = any(split == "val" for split, _ in seen)
    for split in _SPLITS if with_val else ("train", "test"):
        for class_name in CLASSES:
            if (split, class_name) not in seen:
                raise DataError(f"{root}/{split}/{class_name} in {tree.path} holds no image")
    return candidates
