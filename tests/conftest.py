"""What tests share: the command line as a user starts it, and really installed packages of plugins."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import ROOT, Harness


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("torch finds no CUDA device")
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # as of `harness run --deterministic`


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each device that harness trains on, where the same work gives the same bits."""
    import torch

    if request.param == "cuda":
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.allow_tf32 = False
    yield str(request.param)
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def test_plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed tests/packages/harness-test-plugins."""
    return install("harness-test-plugins", tmp_path_factory)


@pytest.fixture(scope="session")
def duplicate_plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed tests/packages/harness-duplicate."""
    return install("harness-duplicate", tmp_path_factory)


@pytest.fixture(scope="session")
def endless_plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed tests/packages/harness-endless."""
    return install("harness-endless", tmp_path_factory)


@pytest.fixture(scope="session")
def ancient_plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed tests/packages/harness-ancient."""
    return install("harness-ancient", tmp_path_factory)


def install(package: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Have pip install a package of tests/packages into a new folder."""
    target = tmp_path_factory.mktemp(package)
    source = ROOT / "tests" / "packages" / package
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([*command, str(target), str(source)], check=True, capture_output=True, text=True)
    return target


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    """Run ``harness ARGS...`` in a fresh folder with a home of its own; keywords are environment variables."""

    def run(
        *arguments: str | Path, timeout: float = 300, **environment: str | Path
    ) -> subprocess.CompletedProcess[str]:
        given = {name: str(value) for name, value in environment.items()}
        env = {**os.environ, "HARNESS_HOME": str(tmp_path / "home"), "COLUMNS": "200", **given}
        env.pop("HARNESS_DB", None)
        return subprocess.run(
            [sys.executable, "-m", "harness", *map(str, arguments)],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def real_images() -> Path:
    """The real chest X-rays as a zip file."""
    path = os.environ.get("HARNESS_TEST_DATA")
    if not path:
        pytest.skip("HARNESS_TEST_DATA does not name the zip of real chest X-rays")
    return Path(path)
