"""What it costs to start: commands that import no torch, beside an empty Typer program.

make bench
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EMPTY = """
import typer
app = typer.Typer()
@app.command()
def main() -> None:
    "Do nothing."
app()
"""


@pytest.mark.benchmark(group="start-up")
@pytest.mark.parametrize(
    "arguments",
    [None, ["--help"], ["run", "--help"], ["plugins"], ["runs", "list"], ["report", "--help"]],
    ids=lambda given: "an empty Typer program" if given is None else f"harness {' '.join(given)}",
)
def test_start(benchmark, tmp_path: Path, arguments: list[str] | None) -> None:
    if arguments is None:
        (tmp_path / "empty.py").write_text(EMPTY)
        command = [sys.executable, "empty.py", "--help"]
    else:
        command = [sys.executable, "-m", "harness", *arguments]
    if arguments == ["runs", "list"]:
        from harness.store import open_store

        open_store(str(tmp_path / "benchmark.db")).close()
    benchmark.pedantic(
        lambda: subprocess.run(command, cwd=tmp_path, check=True, capture_output=True), rounds=10, warmup_rounds=2
    )
