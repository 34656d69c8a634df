"""Measurement sets as a person or a program reads them: tables and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from harness.analysis.samples import summarize
from harness.cli.output import escape, readable_bytes
from harness.results import Measurement, MeasurementSet

__all__ = ["bench_table", "set_json"]


def bench_table(records: Sequence[MeasurementSet], label: str) -> Table:
    """One line a set: the median time of a batch with its 95 % interval, the tail, speed, memory and energy."""
    table = Table(title=f"Measured, {escape(label)}", title_justify="left")
    table.add_column("set", justify="right")
    table.add_column("what", overflow="fold")
    for heading in ("batch", "ms, median", "p99", "images/s", "memory"):
        table.add_column(heading, justify="right")
    energies = any(_values(record, "energy") for record in records)
    if energies:
        table.add_column("J/image", justify="right")
    for record in records:
        config = record.config
        what = f"{config['backbone']}\n[dim]{config['mode']}, {config['precision']}[/]"
        latency = record.measurement("latency")
        if record.status != "completed" or latency is None:
            table.add_row(str(record.id), what, str(config["batch_size"]), f"[red]{record.status}[/]")
            continue
        found = summarize(latency.samples)
        interval = f"{1e3 * found.low:.4g} to {1e3 * found.high:.4g}" if found.low and found.high else "few samples"
        spoilt = " [yellow]*[/]" if latency.details["flags"] else ""
        peak = _values(record, "cuda_reserved_peak") or _values(record, "rss_peak")
        row = [
            str(record.id),
            what,
            str(config["batch_size"]),
            f"{1e3 * found.median:.4g}{spoilt}\n[dim]{interval}[/]",
            f"{1e3 * found.percentiles[99]:.4g}",
            f"{config['batch_size'] / found.median:.4g}",
            readable_bytes(max(peak)),
        ]
        if energies:
            joules = _values(record, "energy")
            row.append(f"{summarize(joules).median:.3g}" if joules else "")
        table.add_row(*row)
    below = "below the median its 95 % interval"
    if any((latency := record.measurement("latency")) and latency.details["flags"] for record in records):
        below += "; * spoilt, as said above"
    table.caption, table.caption_justify = below, "left"
    return table


def set_json(record: MeasurementSet) -> dict[str, Any]:
    """Return a set with every sample."""
    return {
        "id": record.id,
        "uid": record.uid,
        "label": record.label,
        "suite": record.suite,
        "name": record.name,
        "config": dict(record.config),
        "status": record.status,
        "message": record.message,
        "commit": record.commit,
        "weights": asdict(record.weights) if record.weights else None,
        "environment": asdict(record.environment) if record.environment else None,
        "measurements": [_measurement_json(one) for one in record.measurements],
    }


def _measurement_json(one: Measurement) -> dict[str, Any]:
    found = summarize(one.samples) if len(one.samples) else None
    return {
        "name": one.name,
        "unit": one.unit,
        "batch_size": one.batch_size,
        "device": one.device,
        "n": len(one.samples),
        "median": found.median if found else None,
        "low": found.low if found else None,
        "high": found.high if found else None,
        "percentiles": found.percentiles if found else {},
        "details": dict(one.details),
        "samples": one.samples.tolist(),
    }


def _values(record: MeasurementSet, name: str) -> list[float]:
    found = record.measurement(name)
    return [] if found is None else found.samples.tolist()
