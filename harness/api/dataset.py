"""Data sets."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from harness.api.options import Options

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Dataset", "DatasetOptions", "Download", "ImageRef", "ImageSource", "ImageSplits", "RemoteFile"]


@dataclass(frozen=True)
class ImageRef:
    """One labelled image. ``group`` is what must not be torn between splits (a patient).

    ``sha256`` is of its bytes, and of whatever else decides on its pixels, such as options of the data set: images with
    the same hash have the same pixels, and are decoded once for all data sets. ``size`` is its file's, in bytes; None
    where there is no file, or nobody noted it. What is used in training does not depend on it.
    """

    id: str
    label: int
    group: str
    sha256: str
    size: int | None = None


class ImageSource(Protocol):
    """Where the pixels are. ``grey`` promises that R = G = B in every image."""

    @property
    def grey(self) -> bool:
        """True where one channel holds everything."""

    def read(self, ids: Sequence[str]) -> Iterator[Image.Image]:
        """Yield the images of ``ids`` in that order, at their own size, in mode ``L`` or ``RGB``."""


@dataclass(frozen=True)
class ImageSplits:
    """A loaded data set: its classes in label order, its three splits, and where the pixels are."""

    classes: tuple[str, ...]
    train: tuple[ImageRef, ...]
    val: tuple[ImageRef, ...]
    test: tuple[ImageRef, ...]
    images: ImageSource

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over classes, splits, ids, labels, groups and contents: equal where the same data was used."""
        digest = hashlib.sha256(repr(self.classes).encode())
        for name, refs in self.named().items():
            digest.update(name.encode())
            for ref in refs:
                digest.update(f"\0{ref.id}\0{ref.label}\0{ref.group}\0{ref.sha256}".encode())
        return digest.hexdigest()

    def named(self) -> dict[str, tuple[ImageRef, ...]]:
        """Return the splits by name, in their order."""
        return {"train": self.train, "val": self.val, "test": self.test}


class DatasetOptions(Options):
    """Options of a data set; subclass it to add some. They are set as ``--set data.NAME=VALUE``.

    A field called ``path`` can also be given after a colon: ``--data imagefolder:FOLDER``.
    """


@dataclass(frozen=True)
class RemoteFile:
    """A file that a publisher offers, and the name that it is kept by here, whatever name a server proposes.

    ``size`` (bytes) and ``hash`` (``md5:...`` or ``sha256:...``) are checked where they are published.

    Raises:
        ValueError: the name is no plain file name, or the hash is of another kind.
    """

    url: str
    filename: str
    size: int | None = None
    hash: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w.+-]*", self.filename):
            raise ValueError(f"{self.filename!r} is no plain file name")
        if self.hash is not None and not re.fullmatch("md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", self.hash):
            raise ValueError(f"{self.hash!r} is no md5:... or sha256:... in small hexadecimal digits")


@dataclass(frozen=True)
class Download:
    """What one source of a data set offers: a file that :meth:`Dataset.add` takes.

    A source that offers something else is a subclass: it names in ``made`` the file that it makes of those in
    ``files``, or of those that :meth:`find` finds.
    """

    files: tuple[RemoteFile, ...] = ()
    made: str | None = None

    def find(self, read_json: Callable[[str], Any]) -> tuple[RemoteFile, ...]:
        """Return the files to download. ``read_json(url)`` reads a list of them where the source has one.

        Raises:
            harness.errors.DataError: the list is not as expected, or what :meth:`make` needs is not installed.
        """
        del read_json
        return self.files

    def make(self, paths: Sequence[Path], target: Path) -> None:
        """Write what :meth:`Dataset.add` takes to ``target``, whole or not at all, from the files at ``paths``.

        Raises:
            harness.errors.DataError: they are not as expected.
        """
        raise NotImplementedError


class Dataset(ABC):
    """Named splits of labelled images.

    ``subtypes`` are kinds of images within the classes, whose recall is shown too: a name, and how the groups of that
    kind begin, in small letters. ``synthetic`` marks generated images: every page that shows a result on them says so.
    ``downloads`` are the sources that ``harness data fetch`` gets the data from and hands it to :meth:`add`, by name,
    the default first; ``releases`` names the published states of the data by their images in each split.
    """

    Options: ClassVar[type[DatasetOptions]] = DatasetOptions
    synthetic: ClassVar[bool] = False
    subtypes: ClassVar[Mapping[str, str]] = {}
    citation: ClassVar[str] = ""
    licence: ClassVar[str] = ""
    downloads: ClassVar[Mapping[str, Download]] = {}
    releases: ClassVar[Mapping[str, Mapping[str, int]]] = {}

    @abstractmethod
    def load(self, name: str, options: DatasetOptions) -> ImageSplits:
        """Return the splits. ``name`` is the plugin's own; no pixel is decoded yet.

        Raises:
            harness.errors.DataError: the data is not there or cannot be used, and what to do about it.
        """

    def add(self, name: str, source: Path, *, root: str | None, progress: Callable[[int, int], None]) -> Path | None:
        """Verify and register images that the user has at ``source`` (``harness data add``).

        ``root`` is the folder inside the source that holds the splits, for when there is more than one;
        ``progress(done, total)`` is called while images are read. Returns the manifest (:mod:`harness.data.manifest`)
        that it wrote, from which the command shows what was found; None where it has none.
        """
        del source, root, progress
        from harness.errors import DataError

        raise DataError(f"the data set {name!r} takes no images from outside, so `harness data add` has nothing to do")
