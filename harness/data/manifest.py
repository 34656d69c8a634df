"""What is known of a data set's images: verified once, written down, and checked against its source ever after."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, ValidationError

from harness import paths
from harness.api import ImageRef
from harness.data.archive import Tree, TreeKind, open_tree
from harness.data.files import atomic_write
from harness.data.parallel import ordered_map
from harness.errors import DataError

__all__ = [
    "Candidate",
    "ImageEntry",
    "Manifest",
    "ManifestImages",
    "build_manifest",
    "duplicate_groups",
    "groups_in_several_splits",
    "manifest_path",
    "read_manifest",
    "write_manifest",
]

FORMAT = 1
_FAULTS_SHOWN = 5


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ImageEntry(_Record):
    """One verified image. ``path`` is relative to the manifest's root; ``sha256`` is of the file's bytes.

    ``size`` is their number, None in manifests that were written before it was noted.
    """

    path: str
    split: str
    class_name: str
    group: str
    sha256: str
    width: int
    height: int
    mode: Literal["L", "RGB"]
    size: int | None = None


class Manifest(_Record):
    """The images of a data set, where they lie, and what was found in them.

    ``split`` of an image is the source's own, empty where it has none. ``grey`` says that R = G = B in every image.
    """

    format: Literal[1] = 1
    source: Path
    kind: TreeKind
    identity: str
    root: str
    classes: tuple[str, ...]
    grey: bool
    images: tuple[ImageEntry, ...]

    def refs(self, split: str) -> tuple[ImageRef, ...]:
        """Return the images of one of the source's splits, in the order of their paths."""
        labels = {name: label for label, name in enumerate(self.classes)}
        return tuple(
            ImageRef(entry.path, labels[entry.class_name], entry.group, entry.sha256, entry.size)
            for entry in self.images
            if entry.split == split
        )

    def counts(self) -> dict[str, Counter[str]]:
        """Return the number of images of each class, by the source's split."""
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for entry in self.images:
            counts[entry.split][entry.class_name] += 1
        return dict(counts)


@dataclass(frozen=True)
class Candidate:
    """A file that should be an image; ``path`` is relative to the root."""

    path: str
    split: str
    class_name: str
    group: str


def build_manifest(
    tree: Tree,
    root: str,
    classes: Sequence[str],
    candidates: Sequence[Candidate],
    progress: Callable[[int, int], None],
) -> Manifest:
    """Decode every image and record what it is.

    Args:
        tree: where the files lie.
        root: the folder inside the tree that ``candidates`` are relative to; empty for the tree itself.
        classes: names in label order.
        candidates: what to verify.
        progress: called with (done, total).

    Raises:
        DataError: there are fewer than two classes, or files that are no usable image; the first few are named.
    """
    if len(classes) < 2:
        found = f"only {classes[0]!r}" if classes else "none"
        raise DataError(f"{tree.path} must hold images of at least two classes; found {found}")
    entries: list[ImageEntry] = []
    faults: list[str] = []
    grey = True
    with warnings.catch_warnings():
        # Pillow only warns of an image that is merely huge; two threads cannot each set this, so it is set here
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        verified = ordered_map(lambda candidate: _verify(tree, root, candidate), candidates)
        for done, (result, is_grey) in enumerate(verified, 1):
            if isinstance(result, ImageEntry):
                entries.append(result)
                grey = grey and is_grey
            else:
                faults.append(result)
            progress(done, len(candidates))
    if faults:
        more = f"\n  and {len(faults) - _FAULTS_SHOWN} more" if len(faults) > _FAULTS_SHOWN else ""
        listed = "".join(f"\n  {fault}" for fault in faults[:_FAULTS_SHOWN])
        raise DataError(f"{len(faults)} of {len(candidates)} files in {tree.path} cannot be used:{listed}{more}")
    return Manifest(
        source=tree.path,
        kind=tree.kind,
        identity=tree.identity,
        root=root,
        classes=tuple(classes),
        grey=grey,
        images=tuple(sorted(entries, key=lambda entry: entry.path)),
    )


def _verify(tree: Tree, root: str, candidate: Candidate) -> tuple[ImageEntry | str, bool]:
    """Return the entry, or what is wrong with the file; and whether the image is grey."""
    path = candidate.path
    try:
        data = tree.read(_join(root, path))
        if not data:
            return f"{path}: empty file (0 bytes)", False
        with Image.open(io.BytesIO(data)) as image:
            mode = _stored_mode(image)
            if mode not in ("L", "RGB"):
                found = f"{_MODES[mode]} (mode {mode})" if mode in _MODES else mode
                return f"{path}: its pixels are {found}; convert it to 8-bit grey or RGB", False
            image.load()
            channels = [channel.tobytes() for channel in image.split()]
            entry = ImageEntry(
                path=path,
                split=candidate.split,
                class_name=candidate.class_name,
                group=candidate.group,
                sha256=hashlib.sha256(data).hexdigest(),
                width=image.width,
                height=image.height,
                mode=mode,
                size=len(data),
            )
            return entry, all(channel == channels[0] for channel in channels)
    except DataError as error:
        return f"{path}: {error}", False
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        return f"{path}: too large to be a photograph ({error})", False
    except UnidentifiedImageError:
        return f"{path}: no image that Pillow can read", False
    except Exception as error:  # Pillow's decoders raise errors of many kinds for damaged files
        return f"{path}: damaged ({error})", False


_MODES = {
    "1": "black and white",
    "P": "palette",
    "PA": "palette with transparency",
    "LA": "grey with transparency",
    "RGBA": "RGB with transparency",
    "I;16": "16-bit grey",
    "I;16B": "16-bit grey",
    "RGB;16": "16-bit RGB",
    "I": "32-bit grey",
    "F": "floating point",
}


def _stored_mode(image: Image.Image) -> str:
    # Pillow opens 16-bit colour as 8-bit RGB, dropping half of each value
    tiles: Any = getattr(image, "tile", [])
    return f"{image.mode};16" if image.mode == "RGB" and any(";16" in str(tile[3]) for tile in tiles) else image.mode


def _join(root: str, path: str) -> str:
    return f"{root}/{path}" if root else path


# --- audit -----------------------------------------------------------------------------------------------------------


def duplicate_groups(manifest: Manifest) -> tuple[tuple[ImageEntry, ...], ...]:
    """Return the groups of two or more byte-identical files."""
    same: defaultdict[str, list[ImageEntry]] = defaultdict(list)
    for entry in manifest.images:
        same[entry.sha256].append(entry)
    return tuple(tuple(entries) for entries in same.values() if len(entries) > 1)


def groups_in_several_splits(manifest: Manifest) -> tuple[str, ...]:
    """Return the groups (patients) with images in more than one of the source's splits."""
    splits: defaultdict[str, set[str]] = defaultdict(set)
    for entry in manifest.images:
        splits[entry.group].add(entry.split)
    return tuple(sorted(group for group, found in splits.items() if len(found) > 1))


# --- storage ---------------------------------------------------------------------------------------------------------


def manifest_path(name: str) -> Path:
    """Return where the manifest of the data set ``name`` is kept."""
    return paths.data_dir() / "datasets" / name / "manifest.json"


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest, whole or not at all.

    Raises:
        DataError: the place cannot be written.
    """
    try:
        with atomic_write(path) as file:
            file.write(manifest.model_dump_json(indent=1).encode())
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error}); HARNESS_HOME names another place") from error


def read_manifest(path: Path, cure: str) -> Manifest | None:
    """Return a manifest, or None where there is none.

    Args:
        path: its file.
        cure: what to do about a damaged one, for the message.

    Raises:
        DataError: it cannot be read, or is not of this format.
    """
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(f"{path} is no manifest of format {FORMAT} ({place}: {first['msg']}); {cure}") from error


class ManifestImages:
    """The pixels of a manifest's images: a :class:`harness.api.ImageSource`."""

    def __init__(self, manifest: Manifest, cure: str) -> None:
        self._manifest = manifest
        self._cure = cure

    @property
    def grey(self) -> bool:
        """True where one channel holds everything."""
        return self._manifest.grey

    @cached_property
    def _sha256(self) -> dict[str, str]:
        return {entry.path: entry.sha256 for entry in self._manifest.images}

    def check(self) -> None:
        """Compare the source with what was recorded.

        Raises:
            DataError: it has gone or changed.
        """
        with self._open():
            pass

    def read(self, ids: Sequence[str]) -> Iterator[Image.Image]:
        """Yield the images of ``ids``, opened and decoded where they are first used.

        Raises:
            DataError: the source, or an image in it, has gone or changed.
        """
        with self._open() as tree:
            for id_ in ids:
                data = tree.read(_join(self._manifest.root, id_))
                if hashlib.sha256(data).hexdigest() != self._sha256[id_]:
                    raise DataError(f"{id_} in {tree.path} has changed since it was verified; {self._cure}")
                yield Image.open(io.BytesIO(data))

    def _open(self) -> Tree:
        source = self._manifest.source
        if not source.exists():
            raise DataError(f"the images' source {source} is no longer there; {self._cure}")
        tree = open_tree(source)
        # of a folder each file is compared as it is read, so that others may come and go beside the images
        if tree.kind == "zip" and tree.identity != self._manifest.identity:
            tree.close()
            raise DataError(f"{source} has changed since its images were verified; {self._cure}")
        return tree
