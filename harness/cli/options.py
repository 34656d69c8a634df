"""Options that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.errors import ConfigError

__all__ = ["CheckpointEvery", "Database", "Jobs", "Json", "Latency", "MemoryLimit", "Timeout", "parse_jobs", "words"]

Database = Annotated[str, typer.Option("--db", envvar="HARNESS_DB", help="Results database: a file or a URL.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Timeout = Annotated[
    float, typer.Option(min=1, help="End a run as hung after so many seconds without any sign of life from it.")
]
MemoryLimit = Annotated[
    float | None, typer.Option(min=1, help="GiB that a run may take. Default: whatever the machine has.")
]
CheckpointEvery = Annotated[
    float, typer.Option(min=0, help="Seconds between two checkpoints: at most so much work is lost.")
]
Latency = Annotated[
    bool, typer.Option(help="Measure the latency of inference at the end of a run, which takes some seconds.")
]
Jobs = Annotated[
    str,
    typer.Option(
        help="How many runs train side by side on one device. auto: one on a CPU, on a GPU as many as memory and cores "
        "allow, at most four. Latency is measured alone."
    ),
]


def parse_jobs(text: str) -> int | None:
    """Return how many runs train side by side; None for auto.

    Raises:
        ConfigError: it is no such number.
    """
    if text == "auto":
        return None
    if not text.isdecimal() or not 1 <= int(text) <= 64:
        raise ConfigError(f"--jobs {text}: say auto, or a number from 1 to 64")
    return int(text)


def words(text: str) -> list[str]:
    """Split what stands between commas."""
    return [word.strip() for word in text.split(",") if word.strip()]
