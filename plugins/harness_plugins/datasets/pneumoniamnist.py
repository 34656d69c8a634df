"""PneumoniaMNIST of MedMNIST: the children's chest X-rays of `chest-xray`, cropped, grey and small, in four sizes."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, ClassVar, Literal

import numpy as np
from numpy.lib import format as npy
from PIL import Image
from pydantic import Field

from harness import paths
from harness.api import Dataset, DatasetOptions, Download, ImageSplits, RemoteFile
from harness.data.archive import open_tree
from harness.data.files import file_hash
from harness.data.manifest import ImageEntry, Manifest, manifest_path, read_manifest, write_manifest
from harness.data.splits import check_splits
from harness.errors import DataError

__all__ = ["PneumoniaMNIST"]

CLASSES = ("normal", "pneumonia")
_SPLITS = ("train", "val", "test")
_FAULTS = (OSError, EOFError, KeyError, ValueError, NotImplementedError, zipfile.BadZipFile, zlib.error)


def _zenodo(filename: str, md5: str) -> Download:
    url = f"https://zenodo.org/records/10519652/files/{filename}?download=1"
    return Download((RemoteFile(url, filename, hash=f"md5:{md5}"),))


class PneumoniaMNISTOptions(DatasetOptions):
    """Which of the four files."""

    size: Literal[28, 64, 128, 224] = Field(224, description="pixels on a side, each size a file of its own")


class PneumoniaMNIST(Dataset):
    """Paediatric chest X-rays, normal against pneumonia, with MedMNIST's splits.

    No patients are published: each image is a group of its own, and identical images are one. ``downloads`` are named
    by the size. Zenodo could not be reached where this was written; the md5 sums are those that it publishes.
    """

    Options: ClassVar[type[DatasetOptions]] = PneumoniaMNISTOptions
    citation = (
        "Yang, Jiancheng; Shi, Rui; Wei, Donglai; Liu, Zequan; Zhao, Lin; Ke, Bilian; Pfister, Hanspeter; Ni, Bingbing "
        "(2023): MedMNIST v2 - A large-scale lightweight benchmark for 2D and 3D biomedical image classification. "
        "Scientific Data 10, 41, doi 10.1038/s41597-022-01721-8; images of Kermany et al. (2018), doi "
        "10.17632/rscbjbr9sj.2"
    )
    licence = "CC BY 4.0"
    downloads: ClassVar[Mapping[str, Download]] = {
        "224": _zenodo("pneumoniamnist_224.npz", "d6a3c71de1b945ea11211b03746c1fe1"),
        "128": _zenodo("pneumoniamnist_128.npz", "05b46931834c231683c68f40c47b2971"),
        "64": _zenodo("pneumoniamnist_64.npz", "8f4eceb4ccffa70c672198ea285246c6"),
        "28": _zenodo("pneumoniamnist.npz", "28209eda62fecd6e6a2d98b1501bb15f"),
    }
    releases: ClassVar[Mapping[str, Mapping[str, int]]] = {"MedMNIST's": {"train": 4708, "val": 524, "test": 624}}

    def load(self, name: str, options: DatasetOptions) -> ImageSplits:
        """Return MedMNIST's splits of the file of that size."""
        assert isinstance(options, PneumoniaMNISTOptions)  # noqa: S101
        (file,) = self.downloads[str(options.size)].files
        cure = f"run `harness data add {name} --from {file.filename}`"
        manifest = read_manifest(_path(name, options.size), cure)
        if manifest is None:
            raise DataError(
                f"the images of {name!r} with data.size={options.size} have not been added. Either `harness data fetch "
                f"{name} --from {options.size}` downloads them, or `harness data add {name} --from FILE` takes "
                f"{file.filename}, if you have it"
            )
        if not manifest.source.exists():
            raise DataError(f"the images' source {manifest.source} is no longer there; {cure}")
        if _identity(manifest.source) != manifest.identity:
            raise DataError(f"{manifest.source} has changed since its images were verified; {cure}")
        train, val, test = map(manifest.refs, _SPLITS)
        return check_splits(ImageSplits(CLASSES, train, val, test, _Images(manifest, cure)))

    def add(self, name: str, source: Path, *, root: str | None, progress: Callable[[int, int], None]) -> Path:
        """Verify and register one of the published files, told from others by its md5."""
        source = paths.absolute(source).resolve()
        if root is not None:
            raise DataError(f"--root {root}: {source} is one file, without folders")
        try:
            found = file_hash(source, "md5")
        except OSError as error:
            raise DataError(f"{source} cannot be read: {error}") from error
        known = {file.hash: int(size) for size, download in self.downloads.items() for file in download.files}
        if found not in known:
            names = ", ".join(file.filename for download in self.downloads.values() for file in download.files)
            raise DataError(
                f"{source} ({found}) is none of the published files: {names}; `harness data fetch {name} --from SIZE` "
                "downloads one"
            )
        size = known[found]
        manifest = Manifest(
            source=source,
            kind="zip",  # which an npz is
            identity=_identity(source),
            root="",
            classes=CLASSES,
            grey=True,
            images=tuple(_verify(source, size, progress)),
        )
        path = _path(name, size)
        write_manifest(path, manifest)
        return path


def _path(name: str, size: int) -> Path:
    return manifest_path(name).with_name(f"{size}.json")


def _identity(source: Path) -> str:
    with open_tree(source) as tree:
        return tree.identity


def _verify(source: Path, size: int, progress: Callable[[int, int], None]) -> Iterator[ImageEntry]:
    try:
        with zipfile.ZipFile(source) as archive:
            labels = {split: _labels(archive, split) for split in _SPLITS}
            total, done = sum(map(len, labels.values())), 0
            for split, of_split in labels.items():
                with archive.open(f"{split}_images.npy") as file:
                    planes = _Planes(file, split, size)
                    if len(of_split) != planes.number or not set(of_split) <= set(range(len(CLASSES))):
                        raise ValueError(f"{split}_labels are not {planes.number} of 0 and 1")
                    for index, label in enumerate(of_split):
                        digest = hashlib.sha256(planes.read(index)).hexdigest()
                        yield ImageEntry(
                            path=f"{split}/{index:05d}",
                            split=split,
                            class_name=CLASSES[label],
                            group=digest,
                            sha256=digest,
                            width=size,
                            height=size,
                            mode="L",
                        )
                        done += 1
                        progress(done, total)
    except _FAULTS as error:
        raise DataError(f"{source} does not hold images and labels as MedMNIST's files do: {error}") from error


def _labels(archive: zipfile.ZipFile, split: str) -> list[int]:
    with archive.open(f"{split}_labels.npy") as file:
        labels: list[int] = np.load(file, allow_pickle=False).reshape(-1).tolist()
    return labels


class _Planes:
    """The images of a split, uint8 (number, size, size), read one by one: in order that costs the memory of one.

    Raises:
        ValueError: the array is of another kind.
    """

    def __init__(self, file: IO[bytes], split: str, size: int) -> None:
        read_header = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read_header(file)
        if len(shape) != 3 or shape[1:] != (size, size) or dtype != np.uint8 or fortran:
            raise ValueError(f"{split}_images is {dtype} {shape} and not uint8 (n, {size}, {size})")
        self.number, self._file, self._bytes, self._begin = int(shape[0]), file, size * size, file.tell()

    def read(self, index: int) -> bytes:
        """Return the pixels of one image, row by row."""
        self._file.seek(self._begin + index * self._bytes)
        pixels = self._file.read(self._bytes)
        if len(pixels) != self._bytes:
            raise EOFError(f"image {index} is cut off")
        return pixels


class _Images:
    """The pixels of the images of a file: a :class:`harness.api.ImageSource`."""

    grey = True

    def __init__(self, manifest: Manifest, cure: str) -> None:
        self._source, self._size, self._cure = manifest.source, manifest.images[0].width, cure
        self._sha256 = {entry.path: entry.sha256 for entry in manifest.images}

    def read(self, ids: Sequence[str]) -> Iterator[Image.Image]:
        """Yield the images of ``ids``, quickest in the order of the file.

        Raises:
            DataError: the file, or an image in it, has gone or changed.
        """
        size, planes = self._size, dict[str, _Planes]()
        try:
            with ExitStack() as stack:
                archive = stack.enter_context(zipfile.ZipFile(self._source))
                for id_ in ids:
                    split, _, index = id_.partition("/")
                    if split not in planes:
                        file = stack.enter_context(archive.open(f"{split}_images.npy"))
                        planes[split] = _Planes(file, split, size)
                    pixels = planes[split].read(int(index))
                    if hashlib.sha256(pixels).hexdigest() != self._sha256[id_]:
                        raise DataError(f"{id_} in {self._source} has changed since it was verified; {self._cure}")
                    yield Image.frombytes("L", (size, size), pixels)
        except _FAULTS as error:
            raise DataError(f"{self._source} cannot be read: {error}; {self._cure}") from error
