"""Options that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["CheckpointEvery", "Database", "Jobs", "Json", "Latency", "MemoryLimit", "Timeout", "words"]

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
    int,
    typer.Option(
        min=1,
        max=64,
        help="How many runs train side by side, which rarely gains on one device: on a CPU they share its cores. What "
        "has trained waits for those beside it before its latency is measured.",
    ),
]


def words(text: str) -> list[str]:
    """Split what stands between commas."""
    return [word.strip() for word in text.split(",") if word.strip()]
