"""A tree of files, read where it lies: a folder, or a zip that is never unpacked."""

from __future__ import annotations

import hashlib
import os
import threading
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Literal

from harness import paths
from harness.errors import DataError

__all__ = ["MAX_FILE_BYTES", "FileInfo", "Tree", "TreeKind", "open_tree"]

TreeKind = Literal["zip", "folder"]
MAX_FILE_BYTES = 2**28
_JUNK = {"__macosx", "thumbs.db", "desktop.ini"}


@dataclass(frozen=True)
class FileInfo:
    """One file of a tree: its name with forward slashes, relative to the tree, and its size in bytes."""

    name: str
    size: int


class Tree:
    """The files below ``path``, without hidden ones and what operating systems leave behind. A context manager.

    ``folders`` holds every folder, the empty ones too. ``identity`` changes when the zip (size and time of change),
    or the name, size or time of any file in the folder, does.
    """

    def __init__(
        self,
        path: Path,
        kind: TreeKind,
        files: tuple[FileInfo, ...],
        folders: frozenset[str],
        identity: str,
        archive: zipfile.ZipFile | None = None,
    ) -> None:
        self.path, self.kind, self.files, self.folders, self.identity = path, kind, files, folders, identity
        self._archive = archive
        self._lock = threading.Lock()

    def __enter__(self) -> Tree:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the zip, if it is one."""
        if self._archive is not None:
            self._archive.close()

    def read(self, name: str) -> bytes:
        """Return one file's bytes. Threads may call it.

        Raises:
            DataError: it is not there, damaged or too large to be an image.
        """
        try:
            if self._archive is None:
                file = self.path / name
                _check_size(file.stat().st_size, name)
                return file.read_bytes()
            with self._lock:
                _check_size(self._archive.getinfo(name).file_size, name)
                return self._archive.read(name)
        except KeyError:
            raise DataError(f"{self.path} holds no {name}") from None
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
            raise DataError(f"{name} in {self.path} cannot be read: {error}") from error


def _check_size(size: int, name: str) -> None:
    if size > MAX_FILE_BYTES:
        raise DataError(f"{name} has {size:,} bytes; an image may have {MAX_FILE_BYTES:,}")


def open_tree(path: Path) -> Tree:
    """Open a folder or a zip.

    Raises:
        DataError: there is nothing at ``path``, or a file that is no whole, safe and unencrypted zip.
    """
    path = paths.absolute(path).resolve()
    try:
        if path.is_dir():
            return _open_folder(path)
        if not path.exists():
            raise DataError(f"there is nothing at {path}; name a folder or a zip file of images")
        return _open_zip(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _open_folder(path: Path) -> Tree:
    files, folders = [], set()
    digest = hashlib.sha256()

    def fail(error: OSError) -> None:
        raise error

    for top, subfolders, names in os.walk(path, onerror=fail, followlinks=True):
        subfolders[:] = sorted(name for name in subfolders if not _is_junk(name))
        folder = Path(top)
        if folder != path:
            folders.add(folder.relative_to(path).as_posix())
        for name in sorted(name for name in names if not _is_junk(name)):
            status = (folder / name).stat()
            relative = (folder / name).relative_to(path).as_posix()
            files.append(FileInfo(relative, status.st_size))
            digest.update(f"{relative}\0{status.st_size}\0{status.st_mtime_ns}\0".encode("utf-8", "surrogateescape"))
    return Tree(path, "folder", tuple(files), frozenset(folders), digest.hexdigest())


def _open_zip(path: Path) -> Tree:
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        with path.open("rb") as file:
            begins_as_zip = file.read(4) == b"PK\x03\x04"
        if begins_as_zip:
            raise DataError(f"{path} is a zip that is cut off or damaged ({error}); get it again") from error
        raise DataError(f"{path} is no zip file; name a zip file or a folder of images") from error
    try:
        files, folders = _list_zip(archive, path)
    except BaseException:
        archive.close()
        raise
    status = path.stat()
    return Tree(path, "zip", files, folders, f"{status.st_size}-{status.st_mtime_ns}", archive)


def _list_zip(archive: zipfile.ZipFile, path: Path) -> tuple[tuple[FileInfo, ...], frozenset[str]]:
    files: dict[str, FileInfo] = {}
    folders: set[str] = set()
    for member in archive.infolist():
        name = member.filename
        parts = name.replace("\\", "/").split("/")
        if ".." in parts or not parts[0] or parts[0].endswith(":"):
            raise DataError(f"{path} holds {name!r}, a name that points outside the archive; it is not used")
        pure = PurePosixPath(name)
        if any(map(_is_junk, pure.parts)):
            continue
        folders.update(parent.as_posix() for parent in pure.parents[:-1])
        if member.is_dir():
            folders.add(pure.as_posix())
            continue
        if member.flag_bits & 1:
            raise DataError(f"{path} is encrypted ({name}); decrypt it, or unpack it and name the folder")
        if name in files:
            raise DataError(f"{path} holds {name} twice; pack it again")
        files[name] = FileInfo(name, member.file_size)
    return tuple(files[name] for name in sorted(files)), frozenset(folders)


def _is_junk(name: str) -> bool:
    return name.startswith(".") or name.lower() in _JUNK
