"""What every command prints with: people read stderr and tables on stdout, programs read ``--json`` on stdout."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich import markup
from rich.console import Console

from harness.errors import ConfigError

__all__ = [
    "bar",
    "err",
    "escape",
    "no_control",
    "out",
    "parquet_module",
    "print_json",
    "readable_bytes",
    "say",
    "scale",
]

out = Console(soft_wrap=False, highlight=False, emoji=False)
err = Console(stderr=True, highlight=False, emoji=False)


_SCALES = {"s": (1e3, "ms"), "B": (2**-20, "MiB"), "FLOP": (1e-9, "GFLOP"), "1": (1.0, "")}
_CONTROL = {number: f"\\x{number:02x}" for number in (*range(9), *range(11, 32), *range(127, 160))}


def escape(text: str) -> str:
    """Make any text fit to be printed: no markup, and nothing that a terminal would obey."""
    return markup.escape(no_control(text))


def no_control(text: str) -> str:
    """Show what a terminal would obey as what it is."""
    return text.translate(_CONTROL)


def say(text: str) -> None:
    """Tell the user something that is no result."""
    err.print(escape(text), soft_wrap=True)


def parquet_module() -> tuple[Any, Any]:
    """Return pyarrow and its Parquet module, an optional extra."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise ConfigError("Parquet needs pyarrow; run: pip install pyarrow") from error
    return pyarrow, parquet


def print_json(value: Any) -> None:
    """Print one JSON document; datetimes become ISO 8601."""
    sys.stdout.write(json.dumps(_finite(value), indent=2, default=str, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    """JSON has no NaN: what is no number becomes null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def scale(unit: str) -> tuple[float, str]:
    """Return by what to multiply a figure in a unit as it is stored, and in which unit a person then reads it."""
    return _SCALES.get(unit, (1.0, unit))


def readable_bytes(n: float) -> str:
    """Write a size as a person would."""
    for unit in ("bytes", "KiB", "MiB"):
        if n < 1024:
            return f"{n:.0f} {unit}" if unit == "bytes" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.1f} GiB"


@contextmanager
def bar(text: str, *, of_bytes: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar in a terminal; yields ``progress(done, total)``, a total of 0 being unknown."""
    from rich import progress as rich

    amount = (rich.DownloadColumn(), rich.TransferSpeedColumn()) if of_bytes else (rich.MofNCompleteColumn(),)
    columns = (rich.TextColumn("{task.description}"), rich.BarColumn(), *amount, rich.TimeRemainingColumn())
    with rich.Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bars:
        task = bars.add_task(text, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total or None)
