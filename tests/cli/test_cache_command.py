"""`harness cache`: what is kept, and clearing it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from support import Harness


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    cache = tmp_path / "home" / "cache"
    files = {"decoded/a.npy": 2000, "features/b.safetensors": 300, "features/.b.old": 10, "features/.b.written": 20}
    for name, size in files.items():
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).write_bytes(bytes(size))
    os.utime(cache / "features/.b.old", (0, 0))
    return cache


def test_info_counts_files_and_bytes(kept: Path, harness: Harness) -> None:
    found = json.loads(harness("cache", "info", "--json").stdout)
    assert found == {
        "decoded": {"folder": str(kept / "decoded"), "files": 1, "bytes": 2000},
        "features": {"folder": str(kept / "features"), "files": 2, "bytes": 310},
    }
    assert "2.0 KiB" in harness("cache", "info").stdout


def test_clear_deletes_one_kind_or_all(kept: Path, harness: Harness) -> None:
    assert harness("cache", "clear", "features").stdout == "310 bytes freed.\n"
    assert [path.name for path in sorted(kept.rglob("*")) if path.is_file()] == ["a.npy", ".b.written"]
    assert json.loads(harness("cache", "clear", "--json").stdout) == {"bytes": 2000}
    assert harness("cache", "clear").stdout == "0 bytes freed.\n"


def test_an_unknown_kind_lists_the_known_ones(kept: Path, harness: Harness) -> None:
    done = harness("cache", "clear", "images")
    assert done.returncode == 2
    assert "decoded" in done.stderr
    assert "features" in done.stderr
