"""The one wheel, built and installed as a user gets it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from support import ROOT


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a clean environment that holds the wheel, and shares the heavy packages."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=False)
    binaries = folder / "venv" / "bin"
    python = binaries / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    ask = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(ask, check=True, capture_output=True, text=True).stdout.strip())
    # a plain line shares packages; it does not process the other environment's own .pth files, so no editable install
    (site / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return binaries


def _run(installed: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HARNESS_HOME": str(folder / "home")}
    return subprocess.run(
        [str(installed / words[0]), *words[1:]],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )


def test_both_packages_come_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    program = "import harness, harness_plugins; print(harness.__file__); print(harness_plugins.__file__)"
    done = _run(installed, tmp_path, "python", "-c", program)
    assert done.stdout.count(str(installed.parent)) == 2, done.stdout + done.stderr


def test_the_main_job_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    small = [
        "data.train=32",
        "data.val=8",
        "data.test=16",
        "frozen.epochs=1",
        "finetune.epochs=1",
        "frozen.batch_size=16",
    ]
    flags = [word for setting in small for word in ("--set", setting)]
    plugins = ["--plugins", "alexnet,googlenet,resnet18", "--data", "phantom", "--weights", "random"]
    done = _run(installed, tmp_path, "harness", "run", *plugins, *flags, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [run["backbone"] for run in result["runs"]] == ["alexnet", "googlenet", "resnet18"]
    assert [len(ensemble["members"]) for ensemble in result["ensembles"]] == [3, 3]
    report = _run(installed, tmp_path, "harness", "report", "--out", "pages")
    assert report.returncode == 0, report.stderr
    page = (tmp_path / "pages" / "index.html").read_text()
    for part in ("alexnet", "googlenet", "resnet18", "random", "ynthetic"):
        assert part in page
