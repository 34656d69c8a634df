"""Any folder of class folders, with or without splits of its own."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import ClassVar

from pydantic import Field, field_validator, model_validator

from harness import paths
from harness.api import Dataset, DatasetOptions, ImageRef, ImageSplits
from harness.data.archive import Tree, open_tree
from harness.data.manifest import Candidate, Manifest, ManifestImages, build_manifest, read_manifest, write_manifest
from harness.data.splits import check_splits, move_groups
from harness.errors import DataError

__all__ = ["ImageFolder"]

_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
_CURE = "run the command again"


class ImageFolderOptions(DatasetOptions):
    """Where the folder is, and how what it lacks is split off."""

    path: str = Field(min_length=1, description="folder or zip: CLASS/*, or {train,val,test}/CLASS/*")
    val_fraction: float = Field(0.15, gt=0, lt=1, description="share of each class for val, where there is no val")
    test_fraction: float = Field(0.15, gt=0, lt=1, description="share of each class for test, where there is no test")
    split_seed: int = Field(0, ge=0, description="seed of the draw")
    group_pattern: str = Field(
        "", description="regular expression on the file name; its first group says what stays together, as a patient"
    )

    @field_validator("path")
    @classmethod
    def _absolute(cls, path: str) -> str:
        return str(paths.absolute(path))

    @field_validator("group_pattern")
    @classmethod
    def _has_group(cls, pattern: str) -> str:
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from error
        if pattern and not groups:
            raise ValueError("needs a group in parentheses, for example (patient\\d+)_")
        return pattern

    @model_validator(mode="after")
    def _rest(self) -> ImageFolderOptions:
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"val_fraction ({self.val_fraction}) and test_fraction ({self.test_fraction}) leave nothing to train on"
            )
        return self


class ImageFolder(Dataset):
    """Images sorted into class folders, in a folder or a zip. Classes are labelled in alphabetical order."""

    Options: ClassVar[type[DatasetOptions]] = ImageFolderOptions

    def load(self, name: str, options: DatasetOptions) -> ImageSplits:
        """Return the folder's splits; what it lacks is drawn by class from train, groups kept whole."""
        del name
        assert isinstance(options, ImageFolderOptions)  # noqa: S101
        with open_tree(Path(options.path)) as tree:
            manifest = _index(tree, options.group_pattern)
        present = {entry.split for entry in manifest.images}
        splits = {split: manifest.refs(split) for split in ("train", "val", "test")}
        splits["train"] = splits["train"] or manifest.refs("")
        if not options.group_pattern:  # byte-identical files are one image, whatever their names
            splits = {split: tuple(replace(ref, group=ref.sha256) for ref in refs) for split, refs in splits.items()}
        train = splits["train"]
        all_of_train = Counter(ref.label for ref in train)
        for split, fraction in (("test", options.test_fraction), ("val", options.val_fraction)):
            if split not in present:
                wanted = {label: max(1, round(fraction * number)) for label, number in all_of_train.items()}
                held = {ref.group for other in ("val", "test") for ref in splits[other]}
                free = tuple(ref for ref in splits["train"] if ref.group not in held)
                _, splits[split] = _move(free, wanted, options.split_seed, manifest)
                moved = {ref.id for ref in splits[split]}
                splits["train"] = tuple(ref for ref in splits["train"] if ref.id not in moved)
        return check_splits(ImageSplits(manifest.classes, **splits, images=ManifestImages(manifest, _CURE)))


def _move(
    refs: tuple[ImageRef, ...], wanted: dict[int, int], seed: int, manifest: Manifest
) -> tuple[tuple[ImageRef, ...], tuple[ImageRef, ...]]:
    try:
        return move_groups(refs, wanted, seed)
    except DataError as error:
        raise DataError(f"{manifest.source} cannot be split ({', '.join(manifest.classes)}): {error}") from error


def _index(tree: Tree, group_pattern: str) -> Manifest:
    """Return the tree's manifest, from the cache if nothing has changed since it was made, and it has all we note."""
    key = hashlib.sha256("\0".join((str(tree.path), tree.identity, group_pattern)).encode()).hexdigest()
    path = paths.cache_dir() / "indexes" / f"{key}.json"
    manifest = read_manifest(path, f"delete {path}")
    if manifest is None or any(entry.size is None for entry in manifest.images):
        classes, root, candidates = _layout(tree, group_pattern)
        manifest = build_manifest(tree, root, classes, candidates, lambda *_: None)
        write_manifest(path, manifest)
    return manifest


def _layout(tree: Tree, group_pattern: str) -> tuple[list[str], str, list[Candidate]]:
    """Return classes in label order, the root, and what should be an image."""
    root = _root(tree)
    skipped = len(PurePosixPath(root).parts)
    files = [PurePosixPath(file.name).parts[skipped:] for file in tree.files]
    folders = {PurePosixPath(folder).parts[skipped:] for folder in tree.folders} - {()}
    top = sorted({folder[0] for folder in folders})
    named = [name for name in top if name.lower() in _SPLITS]
    if named and len(named) < len(top):
        others = ", ".join(sorted(set(top) - set(named)))
        raise DataError(f"{tree.path} mixes splits ({', '.join(named)}) with other folders ({others}); move one away")
    depth = 2 if named else 1
    classes = sorted({folder[depth - 1] for folder in folders if len(folder) >= depth})
    candidates = []
    for parts in files:
        path = "/".join(parts)
        if len(parts) <= depth and PurePosixPath(path).suffix.lower() not in _IMAGE_SUFFIXES:
            continue
        if len(parts) != depth + 1:
            expected = "SPLIT/CLASS/FILE" if named else "CLASS/FILE"
            raise DataError(f"{path} in {tree.path} lies outside the class folders; expected {expected}")
        split = _SPLITS[parts[0].lower()] if named else ""
        candidates.append(Candidate(path, split, parts[-2], _group(path, group_pattern)))
    if len(classes) >= 2:
        _check_filled(tree, classes, [_SPLITS[name.lower()] for name in named] or [""], candidates)
    return classes, root, candidates


def _root(tree: Tree) -> str:
    """Return the one folder that a zip was packed with, if it holds every image."""
    names = [PurePosixPath(file.name) for file in tree.files]
    tops = {name.parts[0] for name in names if len(name.parts) > 1}
    if tree.kind == "folder" or len(tops) != 1 or any(top.lower() in _SPLITS for top in tops):
        return ""
    inside = all(len(name.parts) > 2 for name in names if name.suffix.lower() in _IMAGE_SUFFIXES)
    return tops.pop() if inside else ""


def _check_filled(tree: Tree, classes: list[str], splits: list[str], candidates: list[Candidate]) -> None:
    if len(set(splits)) < len(splits):
        raise DataError(f"{tree.path} has more than one folder for the same split; keep one of val, valid, validation")
    if splits != [""] and "train" not in splits:
        raise DataError(f"{tree.path} has the splits {', '.join(sorted(splits))}, but no train")
    filled = {(candidate.split, candidate.class_name) for candidate in candidates}
    for split in splits:
        for name in classes:
            if (split, name) not in filled:
                raise DataError(f"the class folder {f'{split}/' if split else ''}{name} in {tree.path} holds no image")


def _group(path: str, pattern: str) -> str:
    if not pattern:
        return path
    filename = path.rsplit("/", 1)[-1]
    match = re.search(pattern, filename)
    if match is None or match[1] is None:
        raise DataError(f"data.group_pattern {pattern!r} does not match the file name {filename!r}")
    return match[1]
