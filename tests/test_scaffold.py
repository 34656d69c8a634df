"""A package that `harness plugin new` wrote is installed, passes its own tests and the kit, and runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.scaffold import KINDS
from support import Harness

ROWS = ["--set", "frozen.epochs=1", "--set", "finetune.epochs=1", "--weights", "random", "--no-latency"]
RUNS = {
    "backbone": ["--plugins", "my_backbone,tiny", "--data", "phantom"],
    "schedule": ["--plugins", "tiny,my_schedule", "--data", "phantom"],
    "ensemble": ["--plugins", "tiny,tiny_two,my_ensemble", "--data", "phantom"],
    "dataset": ["--plugins", "tiny", "--data", "my_dataset"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_package_is_sound_at_once(kind: str, harness: Harness, test_plugins: Path, tmp_path: Path) -> None:
    done = harness("plugin", "new", f"my-{kind}", "--kind", kind)
    assert done.returncode == 0, done.stderr
    package, site = tmp_path / f"my-{kind}", tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(site)]
    subprocess.run([*pip, str(package)], check=True)
    env = {**os.environ, "PYTHONPATH": str(site)}
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(package)]
    tested = subprocess.run(tests, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert tested.returncode == 0, tested.stdout
    checked = harness("plugin", "check", f"my_{kind}", PYTHONPATH=str(site))
    assert checked.returncode == 0, checked.stdout
    small = ["--set", "data.train=16", "--set", "data.val=8", "--set", "data.test=8"] if kind != "dataset" else []
    ran = harness("run", *RUNS[kind], *ROWS, *small, PYTHONPATH=f"{site}:{test_plugins}")
    assert ran.returncode == 0, ran.stderr
    reported = harness("report", "--out", "pages")
    assert reported.returncode == 0, reported.stderr
    assert f"my_{kind}" in "".join(page.read_text() for page in (tmp_path / "pages").rglob("*.html"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["My Net"], "is no name of a package"),
        (["my-net", "--kind", "family"], "--kind family: no such kind"),
        (["taken"], "exists already"),
        (["class"], "choose another name"),
        (["numpy"], "choose another name"),
        (["resnet18"], "is installed already"),
        (["my-net", "--out", "/proc/my-net"], "cannot be written"),
    ],
)
def test_bad_input_is_one_message(harness: Harness, tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "taken").mkdir()
    done = harness("plugin", "new", *arguments)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
