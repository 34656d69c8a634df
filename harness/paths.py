"""Where data, caches and weights live: the platform's own places, or below ``HARNESS_HOME``."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

import platformdirs

__all__ = [
    "Kept",
    "absolute",
    "cache_dir",
    "checkpoint_dir",
    "checkpoints_dir",
    "data_dir",
    "is_checkpoint",
    "kept_dir",
    "sizes",
    "surplus",
    "weights_dirs",
]


_DAY = 86_400.0  # seconds


def absolute(path: str | Path) -> Path:
    """Expand ``~`` where it names a home folder, and make the path absolute, links left as they are."""
    return Path(os.path.expanduser(path)).absolute()  # noqa: PTH111 - pathlib raises where there is no such user


def _home() -> Path | None:
    home = os.environ.get("HARNESS_HOME")
    return absolute(home) if home else None


def data_dir() -> Path:
    """Manifests of added data sets, and downloads."""
    home = _home()
    return home / "data" if home else platformdirs.user_data_path("harness", appauthor=False)


def cache_dir() -> Path:
    """What can be made again."""
    home = _home()
    return home / "cache" if home else platformdirs.user_cache_path("harness", appauthor=False)


class Kept(StrEnum):
    """What runs keep for other runs, a folder of files each."""

    DECODED = "decoded"
    FEATURES = "features"


def kept_dir(kept: Kept) -> Path:
    """Where that is."""
    return cache_dir() / kept


def sizes(folder: Path) -> dict[Path, int]:
    """Return the files of a folder with their bytes; those used longest ago first.

    A file that is being written, by its name, is one of them once it is a day old.
    """
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        with suppress(FileNotFoundError):  # another run makes room
            about = path.stat()
            if not path.name.startswith(".") or time.time() - about.st_mtime > _DAY:
                found.append((about.st_mtime_ns, path, about.st_size))
    return {path: size for _, path, size in sorted(found)}


def surplus(found: Mapping[Path, int], limit: int) -> Iterator[Path]:
    """Yield the first entries of ``found`` until the bytes of the others are within the limit."""
    excess = sum(found.values()) - limit
    for path, size in found.items():
        if excess <= 0:
            return
        yield path
        excess -= size


def checkpoints_dir() -> Path:
    """Checkpoints of runs that have not completed."""
    return data_dir() / "checkpoints"


def checkpoint_dir(uid: str) -> Path:
    """Checkpoint of the run of that uid, which is hashed: a database that somebody sent may hold any uid."""
    return checkpoints_dir() / hashlib.sha256(uid.encode(errors="surrogatepass")).hexdigest()[:32]


def is_checkpoint(path: Path) -> bool:
    """Tell whether an entry of :func:`checkpoints_dir` is one, by its name."""
    return re.fullmatch("[0-9a-f]{32}", path.name) is not None and path.is_dir() and not path.is_symlink()


def weights_dirs() -> tuple[Path, ...]:
    """Folders searched for checkpoint files, in order; downloads are placed in the last one.

    ``HARNESS_WEIGHTS_DIR`` comes first, then torch's own cache (``TORCH_HOME``, as ``torch.hub`` lays it out), so that
    a file which torchvision has already fetched is found and a file that harness fetches serves torchvision too.
    """
    torch_home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "torch"
    hub = absolute(torch_home) / "hub" / "checkpoints"
    own = os.environ.get("HARNESS_WEIGHTS_DIR")
    return (absolute(own), hub) if own else (hub,)
