"""Downloads of published data."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from harness.api import Download
from harness.errors import DataError

__all__ = ["fetch"]


class _Bar:
    """What pooch takes for a progress bar."""

    total = 0

    def __init__(self, progress: Callable[[int, int], None]) -> None:
        self._progress = progress
        self._done = 0

    def update(self, n: int) -> None:
        self._done += n
        self._progress(self._done, self.total)

    def reset(self) -> None:
        self._done = 0

    def close(self) -> None:
        pass


def fetch(download: Download, folder: Path, url: str | None, progress: Callable[[int, int], None]) -> Path:
    """Download a file into ``folder``, whole or not at all; one that is there already is kept.

    Args:
        download: what its publisher offers.
        folder: where to put it.
        url: a mirror; its file's size is not checked.
        progress: called with (bytes done, bytes in all).

    Raises:
        DataError: it cannot be had, or is not of the published size.
    """
    import pooch
    from requests import RequestException

    pooch.get_logger().setLevel("WARNING")
    filename = download.filename
    if url is not None:  # a mirror's file has a name of its own, so that a bad one does not stand for the next
        filename = f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{filename}"
    try:
        path = Path(
            pooch.retrieve(
                url or download.url,
                known_hash=None,  # none is published
                fname=filename,
                path=folder,
                downloader=pooch.HTTPDownloader(progressbar=_Bar(progress)),
            )
        )
    except (RequestException, OSError, ValueError) as error:
        raise DataError(
            f"{url or download.url} cannot be downloaded: {error}. Get the file by other means and use "
            "`harness data add NAME --from FILE`"
        ) from error
    size = path.stat().st_size
    if url is None and size != download.size:
        path.unlink()
        raise DataError(f"{download.url} gave {size:,} bytes where {download.size:,} are published; try again")
    return path
