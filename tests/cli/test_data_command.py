from __future__ import annotations

import functools
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.api import Download
from harness.data.fetch import fetch
from harness.errors import DataError
from image_trees import kaggle, write_folder, write_zip
from support import Harness

SMALL = ["--set", "data.val_normal=2", "--set", "data.val_pneumonia=3"]


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files; below /cut/ only half of what it promised."""

    def log_message(self, *_: object) -> None:
        pass

    def copyfile(self, source, outputfile) -> None:
        content = source.read()
        outputfile.write(content[: len(content) // 2] if self.path.startswith("/cut/") else content)

    def translate_path(self, path: str) -> str:
        return super().translate_path(path.removeprefix("/cut"))


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "served"
    folder.mkdir()
    write_zip(folder / "ChestXRay2017.zip", kaggle())
    handler = functools.partial(_Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_add_show_and_list(harness: Harness, tmp_path: Path) -> None:
    source = write_folder(tmp_path / "images", kaggle())
    before = {row["name"]: row for row in json.loads(harness("data", "list", "--json").stdout)}
    assert "have not been added" in before["chest-xray"]["state"]
    assert before["phantom"] == before["phantom"] | {"state": "ready", "synthetic": True}
    added = harness("data", "add", "chest-xray", "--from", source)
    assert added.returncode == 0, added.stderr
    for part in ("0 groups of identical files", "0 patients in more than one split", "no published release"):
        assert part in added.stdout
    shown = json.loads(harness("data", "show", "chest-xray", *SMALL, "--json").stdout)
    assert shown["counts"]["val"] == {"NORMAL": 2, "PNEUMONIA": 3}
    assert "10.17632" in shown["citation"]
    grouped = harness("data", "show", "chest-xray", *SMALL, "--set", "data.split=grouped")
    assert "0.0% of val images" in grouped.stdout
    again = json.loads(harness("data", "add", "chest-xray", "--from", source, "--json").stdout)
    assert again["classes"] == ["NORMAL", "PNEUMONIA"]


def test_the_real_data_set(harness: Harness, real_images: Path) -> None:
    added = harness("data", "add", "chest-xray", "--from", real_images, "--json")
    found = json.loads(added.stdout)
    assert {split: sum(of_class.values()) for split, of_class in found["counts"].items()} == {
        "train": 5216,
        "test": 624,
    }
    assert (found["duplicate_groups"], found["duplicate_files"]) == (30, 62)
    assert found["groups_in_several_splits"] == []
    assert found["release"] == "Kaggle's without its 16 val images"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["add", "chest-xray", "--from", "missing.zip"], "there is nothing at"),
        (["add", "phantom", "--from", "missing.zip"], "takes no images from outside"),
        (["add", "chest-rays", "--from", "x"], "Did you mean chest-xray"),
        (["show", "imagefolder"], "data.path"),
        (["show", "chest-xray", "--set", "data.split=patient"], "'paper' or 'grouped'"),
        (["fetch", "phantom"], "has no file to download"),
    ],
)
def test_mistakes_are_one_message(harness: Harness, arguments: list[str], said: str) -> None:
    done = harness("data", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_fetch_downloads_verifies_and_registers(harness: Harness, served: str, tmp_path: Path) -> None:
    done = harness("data", "fetch", "chest-xray", "--url", f"{served}/ChestXRay2017.zip")
    assert done.returncode == 0, done.stderr
    assert "CC BY 4.0" in done.stderr
    assert [path.name[9:] for path in (tmp_path / "home" / "data" / "downloads").iterdir()] == ["ChestXRay2017.zip"]
    assert harness("data", "show", "chest-xray", *SMALL).returncode == 0


@pytest.mark.parametrize("path", ["missing.zip", "cut/ChestXRay2017.zip"])
def test_a_download_that_fails_leaves_nothing(harness: Harness, served: str, tmp_path: Path, path: str) -> None:
    done = harness("data", "fetch", "chest-xray", "--url", f"{served}/{path}")
    assert done.returncode == 2
    assert "cannot be downloaded" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "home").rglob("*.zip"))


def test_a_file_of_another_size_than_published_is_refused(served: str, tmp_path: Path) -> None:
    download = Download(f"{served}/ChestXRay2017.zip", "ChestXRay2017.zip", size=1)
    steps: list[tuple[int, int]] = []
    with pytest.raises(DataError, match="where 1 are published"):
        fetch(download, tmp_path / "downloads", None, lambda *step: steps.append(step))
    assert not list((tmp_path / "downloads").iterdir())
    assert steps[-1][0] == steps[-1][1] > 1
