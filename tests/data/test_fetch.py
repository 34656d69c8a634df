from __future__ import annotations

import hashlib
import json
import random
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from file_server import Served, Site, serve
from harness.api import Download, RemoteFile
from harness.data.fetch import fetch, fetch_file
from harness.errors import DataError, HarnessError

CONTENT = random.Random(0).randbytes(1_000_000)
OTHER = random.Random(1).randbytes(1_000_000)
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


@pytest.fixture
def site() -> Iterator[Site]:
    with serve() as site:
        site.files["/file"] = Served(CONTENT)
        yield site


class _Client:
    """Downloads ``/file``, and keeps what was said."""

    def __init__(self, folder: Path, site: Site) -> None:
        self.folder, self.site = folder, site
        self.steps: list[tuple[int, int]] = []
        self.notes: list[str] = []

    def __call__(self, **published: object) -> bytes:
        file = RemoteFile(f"{self.site.url}/file", "data.bin", **published)
        path = fetch_file(
            file,
            self.folder,
            progress=lambda *step: self.steps.append(step),
            note=self.notes.append,
            backoff=0.001,
        )
        assert path == self.folder / "data.bin"
        return path.read_bytes()

    @property
    def left(self) -> set[str]:
        return {path.name for path in self.folder.iterdir() if not path.name.startswith(".")}


@pytest.fixture
def client(tmp_path: Path, site: Site) -> _Client:
    return _Client(tmp_path / "downloads", site)


@pytest.mark.parametrize("published", [{}, {"size": 1_000_000}, {"hash": MD5}, {"hash": SHA256, "size": 1_000_000}])
def test_a_file_is_fetched_once(client: _Client, site: Site, published: dict[str, object]) -> None:
    assert client(**published) == CONTENT
    assert client(**published) == CONTENT
    assert len(site.requests) == 1
    assert client.left == {"data.bin"}
    assert client.steps[-1] == (1_000_000, 1_000_000)


def test_a_file_that_is_there_and_wrong_is_replaced_and_that_is_said(client: _Client) -> None:
    client.folder.mkdir()
    (client.folder / "data.bin").write_bytes(OTHER)
    assert client(hash=MD5) == CONTENT
    assert "is published; it is removed" in client.notes[0]


def test_cut_connections_are_made_again_from_where_they_ended(client: _Client, site: Site) -> None:
    site.files["/file"].cuts = [300_000, 200_000]
    assert client(size=1_000_000) == CONTENT
    assert [asked is None for asked in site.ranges] == [True, False, False]
    begins = [int(asked.removeprefix("bytes=").removesuffix("-")) for asked in site.ranges[1:] if asked]
    assert 300_000 - 2**16 < begins[0] <= 300_000 < begins[1]
    assert [condition for *_, condition in site.requests] == [None, '"first"', '"first"']
    assert "was cut off" in client.notes[0]


def test_after_too_many_cuts_it_is_given_up_and_the_same_call_goes_on(client: _Client, site: Site) -> None:
    site.files["/file"].cuts = [400_000] + [0] * 5
    with pytest.raises(DataError, match=r"6 times in a row.*the same command goes on"):
        client()
    assert client.left == {"data.bin.part", "data.bin.part.json"}
    assert len(site.requests) == 6
    assert client() == CONTENT
    assert site.ranges[-1] is not None


def test_progress_starts_the_tries_anew(client: _Client, site: Site) -> None:
    large = random.Random(2).randbytes(10 * 2**20)
    site.files["/file"] = Served(large, cuts=[1_200_000] * 8)
    assert client() == large
    assert len(site.requests) == 9


@pytest.mark.parametrize("heeds", [True, False])
def test_a_file_that_changed_meanwhile_starts_over(client: _Client, site: Site, heeds: bool) -> None:
    site.files["/file"].cuts = [400_000] + [0] * 5
    with pytest.raises(DataError):
        client()
    site.files["/file"] = Served(OTHER, etag='"second"', heeds_if_range=heeds)
    assert client() == OTHER
    assert site.requests[6][1] is not None


def test_without_an_etag_the_date_tells_the_file(client: _Client, site: Site) -> None:
    when = "Wed, 21 Oct 2026 07:28:00 GMT"
    site.files["/file"] = Served(CONTENT, etag='W/"weak"', modified=when, cuts=[400_000])
    assert client() == CONTENT
    assert site.requests[1][2] == when


def test_a_file_that_nothing_tells_is_continued_only_if_a_hash_can_judge(client: _Client, site: Site) -> None:
    site.files["/file"] = Served(CONTENT, etag=None, cuts=[400_000])
    assert client(size=1_000_000) == CONTENT
    assert site.ranges == [None, None]
    (client.folder / "data.bin").unlink()
    site.files["/file"].cuts = [400_000]
    assert client(hash=SHA256) == CONTENT
    assert site.ranges[3] is not None


def test_a_server_without_ranges_starts_over(client: _Client, site: Site) -> None:
    site.files["/file"] = Served(CONTENT, ranges=False, cuts=[400_000, 500_000])
    assert client(hash=MD5) == CONTENT
    assert len(site.requests) == 3


def test_a_part_that_is_whole_already_is_not_fetched_again(client: _Client, site: Site) -> None:
    client.folder.mkdir()
    (client.folder / "data.bin.part").write_bytes(CONTENT)
    about = {"url": f"{site.url}/file", "validator": '"first"'}
    (client.folder / "data.bin.part.json").write_text(json.dumps(about))
    assert client() == CONTENT
    assert client.steps == []
    assert client.left == {"data.bin"}


@pytest.mark.parametrize("about", ["", "{}", "[]", '{"url": "http://127.0.0.1/other", "validator": "\\"first\\""}'])
def test_a_part_of_unknown_origin_is_not_continued(client: _Client, site: Site, about: str) -> None:
    client.folder.mkdir()
    (client.folder / "data.bin.part").write_bytes(OTHER[:500_000])
    (client.folder / "data.bin.part.json").write_text(about)
    assert client(hash=MD5) == CONTENT
    assert site.ranges == [None]


def test_a_part_longer_than_the_file_starts_over(client: _Client, site: Site) -> None:
    client.folder.mkdir()
    (client.folder / "data.bin.part").write_bytes(CONTENT + b"more")
    about = {"url": f"{site.url}/file", "validator": '"first"'}
    (client.folder / "data.bin.part.json").write_text(json.dumps(about))
    assert client() == CONTENT
    assert len(site.requests) == 2


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again(client: _Client, site: Site, status: int) -> None:
    site.files["/file"].answers = [(status, {"Retry-After": "0"}, b"")] * 3
    assert client() == CONTENT
    site.files["/file"].answers = [(status, {"Retry-After": "0"}, b"")] * 6
    (client.folder / "data.bin").unlink()
    with pytest.raises(DataError, match=rf"busy \(HTTP {status}.*later"):
        client()
    assert len(site.requests) == 4 + 6


def test_a_server_does_not_make_it_wait_for_an_hour(
    client: _Client, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.data.fetch._LONGEST_WAIT", 0.01)
    site.files["/file"].answers = [(429, {"Retry-After": "3600"}, b"")] * 6
    with pytest.raises(DataError, match="asks to wait for 3600 s"):
        client()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((403, {"Content-Type": "text/html"}, b"<html>log in</html>"), "may ask for a login"),
        ((401, {}, b""), "may ask for a login"),
        ((200, {"Content-Type": "text/html; charset=utf-8"}, b"<html>log in</html>"), "gives a web page"),
        ((404, {}, b""), "not there any more"),
        ((410, {}, b""), "not there any more"),
        ((418, {}, b""), "HTTP 418"),
        ((206, {"Content-Range": "bytes 5-9/10"}, b"56789"), "HTTP 206"),
        ((302, {"Location": "ftp://127.0.0.1/file"}, b""), "cannot be reached"),
    ],
)
def test_an_answer_that_is_not_the_file_is_one_message(
    client: _Client, site: Site, answer: tuple[int, dict[str, str], bytes], said: str
) -> None:
    site.files["/file"].answers = [answer]
    with pytest.raises(DataError, match=said):
        client()
    assert client.left == set()


def test_what_has_come_survives_a_refusal(client: _Client, site: Site) -> None:
    whole = site.files["/file"]
    whole.cuts = [400_000] + [0] * 5
    with pytest.raises(DataError):
        client()
    whole.answers = [(403, {}, b"")]
    with pytest.raises(DataError, match="login"):
        client()
    assert client() == CONTENT
    assert site.ranges[-1] is not None


@pytest.mark.parametrize(
    ("published", "said"),
    [
        ({"size": 999_999}, "has 1,000,000 bytes where 999,999 are published"),
        ({"hash": f"md5:{'0' * 32}"}, f"has {MD5} where md5:000"),
        ({"hash": f"sha256:{'0' * 64}"}, f"has {SHA256} where sha256:000"),
    ],
)
def test_another_file_than_published_is_refused(client: _Client, published: dict[str, object], said: str) -> None:
    with pytest.raises(DataError, match=said):
        client(**published)
    assert client.left == set()


def test_a_zip_that_is_none_is_refused(site: Site, tmp_path: Path) -> None:
    file = RemoteFile(f"{site.url}/file", "data.zip")
    with pytest.raises(DataError, match="no whole zip"):
        fetch_file(file, tmp_path, progress=lambda *_: None, note=lambda _: None)


def test_redirects_are_followed_and_ranges_with_them(client: _Client, site: Site) -> None:
    site.files["/elsewhere"] = Served(CONTENT, cuts=[400_000])
    site.files["/file"].answers = [(302, {"Location": f"{site.url}/elsewhere"}, b"")] * 2
    assert client() == CONTENT
    assert [path for path, *_ in site.requests] == ["/file", "/elsewhere"] * 2
    assert site.requests[3][1:] == (site.requests[2][1], '"first"')


def test_no_name_that_a_server_proposes_is_used(client: _Client, site: Site, tmp_path: Path) -> None:
    headers = {"Content-Disposition": 'attachment; filename="../../evil"'}
    site.files["/..%2F..%2Fevil"] = Served(answers=[(200, headers, b"content")])
    site.files["/file"].answers = [(302, {"Location": "/..%2F..%2Fevil"}, b"")]
    assert client() == b"content"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"] == ["data.bin"]


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/b", "..", ".hidden", "", "a\\b", "evil\n"])
def test_a_name_that_is_more_than_a_name_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="no plain file name"):
        RemoteFile("https://example.org/file", name)


@pytest.mark.parametrize("kind", ["md5:123", "sha1:" + "0" * 40, "0" * 64, "md5:" + "A" * 32])
def test_a_hash_of_another_kind_is_an_error(kind: str) -> None:
    with pytest.raises(ValueError, match="is no md5"):
        RemoteFile("https://example.org/file", "file", hash=kind)


def test_two_at_once_do_not_write_into_one_file(client: _Client) -> None:
    client.folder.mkdir()
    with FileLock(client.folder / ".data.bin.lock"), pytest.raises(DataError, match="another process"):
        client()


def test_a_folder_that_cannot_be_written_is_said(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be written.*HARNESS_HOME"):
        _fetch(site, tmp_path / "file")


# --- sources ---------------------------------------------------------------------------------------------------------


def _fetch(site: Site, folder: Path, source: str | None = None, url: str | None = None) -> Path:
    downloads = {
        "first": Download((RemoteFile(f"{site.url}/file", "first.bin", hash=MD5, size=1_000_000),)),
        "second": Download((RemoteFile(f"{site.url}/gone", "second.bin"),)),
        "both": Download((RemoteFile(f"{site.url}/file", "a"), RemoteFile(f"{site.url}/file", "b")), made="made.bin"),
    }
    quiet = {"progress": lambda *_: None, "note": lambda _: None}
    return fetch("things", downloads, source, folder, url=url, backoff=0.001, **quiet)


def test_the_first_source_is_the_default_and_an_unknown_one_lists_them(site: Site, tmp_path: Path) -> None:
    assert _fetch(site, tmp_path).name == "first.bin"
    with pytest.raises(HarnessError, match=r"--from fist.*Did you mean first.*both, first, second"):
        _fetch(site, tmp_path, "fist")


def test_a_source_that_fails_names_the_others(site: Site, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"not there any more(?s:.*)--from first, both.*harness data add things --from FILE"
    ):
        _fetch(site, tmp_path, "second")


def test_a_mirror_must_have_the_published_hash(site: Site, tmp_path: Path) -> None:
    site.files["/mirror"], site.files["/bad"] = Served(CONTENT), Served(OTHER)
    assert _fetch(site, tmp_path, url=f"{site.url}/mirror").name.endswith("-first.bin")
    with pytest.raises(DataError, match="where md5"):
        _fetch(site, tmp_path, url=f"{site.url}/bad")
    with pytest.raises(HarnessError, match="stands for one file"):
        _fetch(site, tmp_path, "both", f"{site.url}/mirror")
    for url in ("file:///etc/passwd", "nonsense", "http://127.0.0.1:1/x"):
        with pytest.raises(DataError, match="cannot be reached"):
            _fetch(site, tmp_path, url=url)


# --- encryption ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    )
    try:
        subprocess.run([*command.split(), "-keyout", path, "-out", f"{path}.crt"], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no openssl to make a certificate with")
    path.write_bytes(path.read_bytes() + Path(f"{path}.crt").read_bytes())
    return path


@pytest.fixture
def encrypted(certificate: Path) -> Iterator[Site]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with serve(context) as site:
        site.files["/file"] = Served(CONTENT)
        yield site


def test_a_certificate_that_nobody_vouches_for_is_refused(encrypted: Site, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be reached.*certificate"):
        _Client(tmp_path, encrypted)()
    assert encrypted.requests == []


def test_encryption_is_not_given_up_on_the_way(
    encrypted: Site, site: Site, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    assert _Client(tmp_path / "good", encrypted)() == CONTENT
    encrypted.files["/file"].answers = [(302, {"Location": f"{site.url}/file"}, b"")]
    with pytest.raises(DataError, match="not encrypted"):
        _Client(tmp_path / "bad", encrypted)()
