"""Downloads of published data: continued where they were cut off, checked, and only then put in their place."""

from __future__ import annotations

import hashlib
import json
import re
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import requests
from filelock import FileLock, Timeout
from requests.adapters import HTTPAdapter
from urllib3 import BaseHTTPResponse
from urllib3.util import Retry

from harness.api import Download, RemoteFile
from harness.data.files import file_hash
from harness.errors import ConfigError, DataError, did_you_mean

__all__ = ["fetch", "fetch_file"]

Progress = Callable[[int, int], None]

TRIES = 5  # after the first, before a download is given up
_ENOUGH = 2**20  # bytes that a connection has to bring for the tries to be counted anew
_CHUNK = 2**16  # what is lost at most when a connection is cut
_TIMEOUT = (30, 60)  # seconds: to connect, and between two bytes
_LONGEST_WAIT = 60.0  # seconds, whatever a server asks for
_LIST_BYTES = 2**24  # of a list of files


def fetch(
    name: str,
    downloads: Mapping[str, Download],
    source: str | None,
    folder: Path,
    *,
    progress: Progress,
    note: Callable[[str], None],
    url: str | None = None,
    backoff: float = 1.0,
) -> Path:
    """Download a data set from one of its sources, and return the file that ``Dataset.add`` takes.

    Args:
        name: the data set's, for messages.
        downloads: its sources.
        source: which of them; None for the first.
        folder: where files are put; nothing is written elsewhere.
        progress: called with (bytes done, bytes in all, 0 where unknown), for one file after another.
        note: told what the user should know.
        url: a mirror of the source's file: it must have the published hash, but may have another size.
        backoff: seconds before the second try; each later one waits twice as long.

    Raises:
        ConfigError: there is no such source, or a mirror cannot stand for it.
        DataError: the file cannot be had, or is not the published one.
    """
    if not downloads:
        raise DataError(f"the data set {name!r} has no file to download; `harness data list` shows what it needs")
    source = next(iter(downloads)) if source is None else source
    if source not in downloads:
        raise ConfigError(f"--from {source}: {name!r} has no such source. {did_you_mean(source, downloads)}")
    download = downloads[source]
    try:
        if download.made is not None and (folder / download.made).exists():
            return folder / download.made
        if url is None:
            files = download.find(lambda address: _read_json(address, backoff))
        else:
            files = (_mirrored(download, source, url),)
        paths = [fetch_file(file, folder, progress=progress, note=note, backoff=backoff) for file in files]
        if download.made is None:
            return paths[0]
        target = folder / download.made
        try:
            download.make(paths, target)
        except DataError as error:
            raise DataError(f"{error}; what is deleted in {folder} is downloaded anew") from error
    except DataError as error:
        others = ", ".join(other for other in downloads if other != source)
        also = f"There is also --from {others}. Or get" if others else "Or get"
        raise DataError(
            f"{error}\n{also} the file by other means, and `harness data add {name} --from FILE` takes it"
        ) from error
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error}; HARNESS_HOME names another place") from error
    for path in paths:
        path.unlink(missing_ok=True)
    return target


def _mirrored(download: Download, source: str, url: str) -> RemoteFile:
    if download.made is not None or len(download.files) != 1:
        raise ConfigError(f"--url stands for one file, and {source} has several")
    (file,) = download.files
    # a mirror's file has a name of its own, so that a bad one does not stand for the next
    return replace(file, url=url, filename=f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{file.filename}", size=None)


def fetch_file(
    file: RemoteFile, folder: Path, *, progress: Progress, note: Callable[[str], None], backoff: float = 1.0
) -> Path:
    """Download a file into ``folder``, whole or not at all; one that is there and right is kept.

    What has come when it ends early, for whatever reason, stays beside it as ``NAME.part``, and the next call goes on
    from there if the server still has the same file.

    Raises:
        DataError: it cannot be had, or is not the published one.
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file.filename
    try:
        with FileLock(folder / f".{file.filename}.lock", timeout=0):
            if path.exists():
                fault = _fault(file, path)
                if fault is None:
                    return path
                path.unlink()
                note(f"{path} {fault}; it is removed, and downloaded again")
            partial = _Partial(path)
            with _session(backoff) as session:
                _download(session, file, partial, progress, note, backoff)
            if fault := _fault(file, partial.data):
                partial.remove()
                raise DataError(f"what {file.url} gave {fault}; it is removed")
            partial.data.replace(path)
            partial.remove()
            return path
    except Timeout:
        raise DataError(f"another process is downloading {path}; wait for it, or stop it") from None


def _fault(file: RemoteFile, path: Path) -> str | None:
    """Return what shows that this is not the published file."""
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        return f"has {size:,} bytes where {file.size:,} are published"
    if file.hash is not None:
        found = file_hash(path, file.hash.partition(":")[0])
        return None if found == file.hash else f"has {found} where {file.hash} is published"
    if path.name.removesuffix(".part").endswith(".zip") and not zipfile.is_zipfile(path):
        return "is no whole zip file"
    return None


# --- one file --------------------------------------------------------------------------------------------------------


class _CutOffError(Exception):
    """The connection ended before the file did."""


class _Partial:
    """What has come of a file: ``NAME.part``, and beside it, in JSON, from where, and by what the server knows it."""

    def __init__(self, path: Path) -> None:
        self.data = path.with_name(f"{path.name}.part")
        self._about = path.with_name(f"{path.name}.part.json")

    @property
    def size(self) -> int:
        return self.data.stat().st_size if self.data.exists() else 0

    def begin(self, url: str, validator: str) -> None:
        self.data.write_bytes(b"")
        self._about.write_text(json.dumps({"url": url, "validator": validator}), encoding="utf-8")

    def validator(self, url: str) -> str | None:
        """Return what the server knew the file by, empty if nothing; None where this is of no such file."""
        try:
            about = json.loads(self._about.read_text(encoding="utf-8"))
            return str(about["validator"]) if about["url"] == url else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def remove(self) -> None:
        self.data.unlink(missing_ok=True)
        self._about.unlink(missing_ok=True)


def _download(
    session: requests.Session,
    file: RemoteFile,
    partial: _Partial,
    progress: Progress,
    note: Callable[[str], None],
    backoff: float,
) -> None:
    """Fill ``partial``; a connection that is cut off is made again."""
    failed = 0
    while True:
        before = partial.size
        try:
            _receive(session, file, partial, progress)
            return
        except _CutOffError as cut:
            failed = 1 if partial.size - before >= _ENOUGH else failed + 1
            where = f"{file.url} was cut off at {partial.size:,} bytes ({cut})"
            if failed > TRIES:
                raise DataError(
                    f"{where}, {failed} times in a row; what has come is kept, and the same command goes on from there"
                ) from cut
            note(f"{where}; going on")
            time.sleep(min(backoff * 2 ** (failed - 1), _LONGEST_WAIT))


def _receive(session: requests.Session, file: RemoteFile, partial: _Partial, progress: Progress) -> None:
    """Ask for what is missing, and append what comes.

    Raises:
        _CutOffError: the connection ended before the file did.
        DataError: the server has something else, or nothing.
    """
    known = partial.validator(file.url)
    # Without a validator only a published hash can tell that both parts are of the same file.
    offset = partial.size if known or (known is not None and file.hash) else 0
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    if offset and known:
        headers["If-Range"] = known
    with _get(session, file.url, headers) as response:
        code = response.status_code
        if offset and code == 416 and response.headers.get("Content-Range") == f"bytes */{offset}":
            return  # all of it was there already
        if offset and code in (206, 416) and not _continues(response, offset, known or ""):
            partial.remove()  # it is of another file, or not what was asked for: once more, from the start
            _receive(session, file, partial, progress)
            return
        offset = 0 if code == 200 else offset  # the file has changed, or the server knows no ranges
        _refuse(file.url, response, (206,) if offset else (200,))
        length = response.headers.get("Content-Length")
        total = offset + int(length) if length and "Content-Encoding" not in response.headers else 0
        most = file.size or total
        if total and total != most:
            raise DataError(f"{file.url} has {total:,} bytes where {file.size:,} are published")
        if not offset:
            partial.begin(file.url, _validator(response))
        progress(offset, most)
        with partial.data.open("ab") as out:
            try:
                for chunk in response.iter_content(_CHUNK):
                    out.write(chunk)
                    offset += len(chunk)
                    progress(offset, most)
                    if most and offset > most:
                        raise DataError(f"{file.url} gives more than the {most:,} bytes that it should have")
            except requests.RequestException as error:
                raise _CutOffError(_reason(error)) from error
    if offset < total:
        raise _CutOffError(f"{total:,} were promised")


def _continues(response: requests.Response, offset: int, known: str) -> bool:
    """Tell whether the answer is the rest of the very file."""
    begins = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    same = not known or _validator(response) in ("", known)
    return response.status_code == 206 and begins is not None and int(begins[1]) == offset and same


def _validator(response: requests.Response) -> str:
    """Return what the file can be recognised by in ``If-Range``: a strong ETag, or when it was changed."""
    etag = str(response.headers.get("ETag", ""))
    return etag if etag.startswith('"') else str(response.headers.get("Last-Modified", ""))


# --- requests --------------------------------------------------------------------------------------------------------


class _Retry(Retry):
    """urllib3's, but no server makes it wait for an hour."""

    def get_retry_after(self, response: BaseHTTPResponse) -> float | None:
        seconds = super().get_retry_after(response)
        return None if seconds is None else min(seconds, _LONGEST_WAIT)


def _session(backoff: float) -> requests.Session:
    session = requests.Session()
    retry = _Retry(
        total=None,
        connect=2,
        read=TRIES,
        status=TRIES,
        other=0,  # such as a certificate that is not valid
        status_forcelist=(429, 500, 502, 503, 504),
        raise_on_status=False,
        backoff_factor=backoff,
        backoff_max=_LONGEST_WAIT,
    )
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    # bytes as they are stored: ranges and lengths of compressed ones would be others
    session.headers["Accept-Encoding"] = "identity"
    return session


def _get(session: requests.Session, url: str, headers: Mapping[str, str]) -> requests.Response:
    try:
        response = session.get(url, headers=headers, stream=True, timeout=_TIMEOUT)
    except (requests.RequestException, ValueError) as error:
        raise DataError(f"{url} cannot be reached: {_reason(error)}") from error
    if url.lower().startswith("https:") and not response.url.lower().startswith("https:"):
        response.close()
        raise DataError(f"{url} leads to {response.url}, which is not encrypted; it is not used")
    return response


def _reason(error: Exception) -> str:
    """Return the innermost reason that requests and urllib3 wrap."""
    while isinstance(inner := getattr(error, "reason", None) or (error.args[0] if error.args else None), Exception):
        error = inner
    first = error.args[0] if error.args else None
    return first if isinstance(first, str) and first else str(error) or type(error).__name__


def _refuse(url: str, response: requests.Response, wanted: tuple[int, ...] = (200,)) -> None:
    """Say why an answer is not the file, if it is not.

    Raises:
        DataError: it is not.
    """
    code, kind = response.status_code, response.headers.get("Content-Type", "")
    said = f"HTTP {code} {response.reason or ''}".rstrip()
    if code in (401, 403):
        raise DataError(f"{url} is not given to everybody ({said}): it may ask for a login, or for consent to terms")
    if code in (404, 410):
        raise DataError(f"{url} is not there any more ({said})")
    if code in (429, 503):
        wait = response.headers.get("Retry-After")
        asks = f", which asks to wait for {wait} s" if wait and wait.isdigit() else ""
        raise DataError(f"{url}: the server is busy ({said}{asks}); the same command goes on later")
    if code not in wanted:
        raise DataError(f"{url} cannot be downloaded ({said})")
    if kind.startswith("text/html"):
        raise DataError(f"{url} gives a web page and not the file: it may ask for a login, or for consent to terms")


def _read_json(url: str, backoff: float) -> Any:
    with _session(backoff) as session, _get(session, url, {}) as response:
        _refuse(url, response)
        try:
            return json.loads(b"".join(islice(response.iter_content(_CHUNK), _LIST_BYTES // _CHUNK)))
        except (requests.RequestException, ValueError) as error:
            raise DataError(f"{url} gives no list of files: {_reason(error)}") from error
