from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from file_server import Served, Site, serve
from harness_plugins.datasets.pneumoniamnist import PneumoniaMNIST
from image_trees import TEST, TRAIN, encoded, grey, kaggle, medmnist, write_zip
from support import Harness

SMALL = ["--set", "data.val_normal=2", "--set", "data.val_pneumonia=3"]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with serve() as site:
        site.files["/chest.zip"] = Served(write_zip(tmp_path / "chest.zip", kaggle()).read_bytes())
        yield site


def _kept(home: Path, name: str = "chest-xray") -> list[str]:
    folder = home / "home" / "data" / "downloads" / name
    return sorted(path.name for path in folder.glob("*") if path.suffix != ".lock")


def test_fetch_downloads_verifies_and_registers(harness: Harness, site: Site, tmp_path: Path) -> None:
    site.files["/chest.zip"].cuts = [5_000]
    done = harness("data", "fetch", "chest-xray", "--url", f"{site.url}/chest.zip")
    assert done.returncode == 0, done.stderr
    assert done.stderr.index("10.17632/rscbjbr9sj.2. Licence: CC BY 4.0.") < done.stderr.index("was cut off at")
    assert "the counts are those of no published release" in done.stdout
    assert [name[9:] for name in _kept(tmp_path)] == ["ChestXRay2017.zip"]
    assert harness("data", "show", "chest-xray", *SMALL).returncode == 0
    again = harness("data", "fetch", "chest-xray", "--url", f"{site.url}/chest.zip", "--json")
    assert json.loads(again.stdout)["counts"]["test"] == {"NORMAL": 2, "PNEUMONIA": 2}
    assert len(site.requests) == 2


def test_kaggle_redirects_to_a_zip_with_two_copies(harness: Harness, site: Site, tmp_path: Path) -> None:
    twice = kaggle("chest_xray/") | kaggle("chest_xray/chest_xray/") | {"chest_xray/__MACOSX/._chest_xray": b"x"}
    site.files["/signed?x=1"] = Served(write_zip(tmp_path / "twice.zip", twice).read_bytes(), kind="application/zip")
    site.files["/download/chest"] = Served(answers=[(302, {"Location": "/signed?x=1"}, b"")])
    done = harness("data", "fetch", "chest-xray", "--from", "kaggle", "--url", f"{site.url}/download/chest")
    assert done.returncode == 0, done.stderr
    assert [name[9:] for name in _kept(tmp_path)] == ["kaggle-chest-xray-pneumonia.zip"]


def test_a_login_page_is_one_message_with_the_other_ways(harness: Harness, site: Site, tmp_path: Path) -> None:
    site.files["/login"] = Served(b"<html>log in</html>", kind="text/html; charset=utf-8")
    done = harness("data", "fetch", "chest-xray", "--from", "kaggle", "--url", f"{site.url}/login")
    assert done.returncode == 2
    for said in ("may ask for a login", "--from mendeley, huggingface.", "data add chest-xray --from FILE"):
        assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert _kept(tmp_path) == []


def test_a_download_that_is_no_data_set_says_how_to_go_on(harness: Harness, site: Site, tmp_path: Path) -> None:
    site.files["/cats.zip"] = Served(write_zip(tmp_path / "cats.zip", {"cat.jpeg": encoded(grey())}).read_bytes())
    done = harness("data", "fetch", "chest-xray", "--url", f"{site.url}/cats.zip")
    assert done.returncode == 2
    for said in ("has no images in train/NORMAL", "The download is kept", "data add chest-xray --from /"):
        assert said in done.stderr


def test_an_interrupted_download_goes_on(site: Site, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "harness", "data", "fetch", "chest-xray", "--url", f"{site.url}/chest.zip"]
    env = {**os.environ, "HARNESS_HOME": str(tmp_path / "home")}
    release = threading.Event()
    site.files["/chest.zip"].hang = (200_000, release)
    site.files["/chest.zip"].content = write_zip(
        tmp_path / "large.zip", kaggle() | {"chest_xray/notes.bin": os.urandom(400_000)}
    ).read_bytes()
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size > 100_000 for path in (tmp_path / "home").rglob("*.part")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    release.set()
    assert process.returncode == 130
    assert "the same command goes on from there" in said
    assert "Traceback" not in said
    site.files["/chest.zip"].hang = None
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(str(site.ranges[-1])[6:-1]) > 100_000


# --- Hugging Face ----------------------------------------------------------------------------------------------------

API = "/api/datasets/hf-vision/chest-xray-pneumonia/parquet"


def _rows(split: str) -> list[dict[str, object]]:
    folders = TRAIN | TEST
    names = [name for folder, files in folders.items() if folder.startswith(split) for name in files]
    if split == "validation":
        names = ["NORMAL2-IM-0900-0001.jpeg", "person900_virus_1.jpeg"]
    rows = []
    for number, name in enumerate(names):
        content = encoded(grey(number + 100 * len(split)).convert("RGB"))
        rows.append({"image": {"bytes": content, "path": name}, "label": int(name.startswith("person"))})
    return rows


def _parquet(rows: list[dict[str, object]], path: Path) -> bytes:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=4)
    return path.read_bytes()


@pytest.fixture
def hub(site: Site, tmp_path: Path) -> Site:
    """The Hub's API: the list says the Hub's own addresses, whatever mirror is asked."""
    pytest.importorskip("pyarrow")
    rows = _rows("train")
    shards = {"train": [rows[:9], rows[9:]], "validation": [_rows("validation")], "test": [_rows("test")]}
    listed: dict[str, list[str]] = {}
    for split, parts in shards.items():
        for number, part in enumerate(parts):
            path = f"{API}/default/{split}/{number}.parquet"
            site.files[path] = Served(_parquet(part, tmp_path / "shard.parquet"))
            listed.setdefault(split, []).append(f"https://huggingface.co{path}")
    site.files[API] = Served(json.dumps({"default": listed}).encode(), kind="application/json")
    return site


def test_hugging_faces_parquet_becomes_a_zip_in_kaggles_layout(harness: Harness, hub: Site, tmp_path: Path) -> None:
    fetch = ("data", "fetch", "chest-xray", "--from", "huggingface", "--json")
    done = harness(*fetch, HF_ENDPOINT=hub.url)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["counts"] == {
        "train": {"NORMAL": 6, "PNEUMONIA": 11},
        "val": {"NORMAL": 1, "PNEUMONIA": 1},
        "test": {"NORMAL": 2, "PNEUMONIA": 2},
    }
    assert _kept(tmp_path) == ["huggingface-chest-xray-pneumonia.zip"]
    made = hashlib.sha256(Path(found["source"]).read_bytes()).hexdigest()
    asked = len(hub.requests)
    assert harness(*fetch, HF_ENDPOINT=hub.url).returncode == 0
    assert len(hub.requests) == asked, "what was made is kept"
    Path(found["source"]).unlink()
    assert harness(*fetch, HF_ENDPOINT=hub.url).returncode == 0
    assert hashlib.sha256(Path(found["source"]).read_bytes()).hexdigest() == made


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"path": "00012.jpeg"}, "does not say which patient"),
        ({"path": None}, "does not say which patient"),
        ({"path": "../../../person1_virus_2.jpeg"}, "holds train/PNEUMONIA/person1_virus_2.jpeg once more"),
        ({"label": 0}, "has the label 0, where its name says PNEUMONIA"),
        ({"bytes": None}, "has no image"),
    ],
)
def test_a_row_that_is_not_as_expected_is_named(
    harness: Harness, hub: Site, tmp_path: Path, change: dict[str, object], said: str
) -> None:
    rows = [
        {"image": {"bytes": b"x", "path": "person1_virus_2.jpeg"}, "label": 1},
        {"image": {"bytes": b"x", "path": "person2_virus_2.jpeg"}, "label": 1},
    ]
    for name, value in change.items():
        (rows[1] if name == "label" else rows[1]["image"])[name] = value
    hub.files[f"{API}/default/train/0.parquet"] = Served(_parquet(rows, tmp_path / "shard.parquet"))
    done = harness("data", "fetch", "chest-xray", "--from", "huggingface", HF_ENDPOINT=hub.url)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not [name for name in _kept(tmp_path) if name.endswith(".zip")]


@pytest.mark.parametrize("content", [b"no parquet at all", b"PAR1" + bytes(40) + b"PAR1"])
def test_a_file_that_is_no_parquet_is_named(harness: Harness, hub: Site, content: bytes) -> None:
    hub.files[f"{API}/default/test/0.parquet"] = Served(content)
    done = harness("data", "fetch", "chest-xray", "--from", "huggingface", HF_ENDPOINT=hub.url)
    assert done.returncode == 2
    assert "test-00000-huggingface-chest-xray-pneumonia.zip.parquet has no image" in done.stderr


@pytest.mark.parametrize(
    "listed",
    [
        b"[]",
        b"{}",
        b'{"default": {"../evil": ["x"]}}',
        b'{"a": {}, "b": {}}',
        b'{"default": 3}',
        b'{"default": {"train": []}}',
        b"<html>",
    ],
)
def test_a_list_that_is_not_as_expected_is_one_message(harness: Harness, hub: Site, listed: bytes) -> None:
    hub.files[API] = Served(listed, kind="application/json")
    done = harness("data", "fetch", "chest-xray", "--from", "huggingface", HF_ENDPOINT=hub.url)
    assert done.returncode == 2
    assert "lists no files" in done.stderr or "gives no list" in done.stderr
    assert len(hub.requests) == 1


def test_without_pyarrow_nothing_is_downloaded(harness: Harness, hub: Site, tmp_path: Path) -> None:
    (tmp_path / "without" / "pyarrow").mkdir(parents=True)
    (tmp_path / "without" / "pyarrow" / "__init__.py").write_text("raise ModuleNotFoundError('pyarrow')")
    path = os.pathsep.join([str(tmp_path / "without"), os.environ.get("PYTHONPATH", "")])
    done = harness("data", "fetch", "chest-xray", "--from", "huggingface", HF_ENDPOINT=hub.url, PYTHONPATH=path)
    assert done.returncode == 2
    assert "pip install pyarrow" in done.stderr
    assert hub.requests == []


# --- PneumoniaMNIST --------------------------------------------------------------------------------------------------


def test_a_small_pneumoniamnist_from_its_publisher_to_a_result(harness: Harness, site: Site, tmp_path: Path) -> None:
    """The plugin itself, in a package that says another address and the hash of a small file."""
    content = medmnist(tmp_path / "small.npz", 28).read_bytes()
    site.files["/pneumoniamnist.npz"] = Served(content)
    package = tmp_path / "package"
    about = package / "small_mnist-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: small-mnist\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[harness.datasets]\nsmall-mnist = small_mnist:Small\n")
    (package / "small_mnist.py").write_text(
        "from harness.api import Download, RemoteFile\n"
        f"from {PneumoniaMNIST.__module__} import PneumoniaMNIST\n"
        "class Small(PneumoniaMNIST):\n"
        f"    downloads = {{'28': Download((RemoteFile({site.url + '/pneumoniamnist.npz'!r}, 'pneumoniamnist.npz',"
        f" hash='md5:{hashlib.md5(content).hexdigest()}'),))}}\n"
        "    releases = {'the small one': {'train': 24, 'val': 8, 'test': 8}}\n"
    )
    path = os.pathsep.join([str(package), os.environ.get("PYTHONPATH", "")])
    run = (
        *("run", "--plugins", "resnet18", "--data", "small-mnist", "--set", "data.size=28", "--weights", "random"),
        *("--device", "cpu", "--stages", "frozen", "--set", "frozen.epochs=1", "--no-latency"),
    )
    missing = harness(*run, PYTHONPATH=path)
    assert missing.returncode == 2
    assert "`harness data fetch small-mnist --from 28`" in missing.stderr
    fetched = harness("data", "fetch", "small-mnist", PYTHONPATH=path)
    assert fetched.returncode == 0, fetched.stderr
    for said in ("10.1038/s41597-022-01721-8", "CC BY 4.0"):
        assert said in fetched.stderr
    for said in ("images 28 x 28, mode L, grey", "1 groups of identical files", "the counts are the small one"):
        assert said in fetched.stdout
    shown = json.loads(
        harness("data", "show", "small-mnist", "--set", "data.size=28", "--json", PYTHONPATH=path).stdout
    )
    assert shown["counts"]["test"] == {"normal": 4, "pneumonia": 4}
    done = harness(*run, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    result = json.loads(harness("runs", "show", "1", "--json", PYTHONPATH=path).stdout)
    assert result["dataset"]["name"] == "small-mnist"
    harness("data", "add", "small-mnist", "--from", tmp_path / "small.npz", PYTHONPATH=path)
    again = json.loads(
        harness("data", "show", "small-mnist", "--set", "data.size=28", "--json", PYTHONPATH=path).stdout
    )
    assert again == shown, "wherever the file lies"
