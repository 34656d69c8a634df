"""Measurement sets as a person or a program reads them: tables and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.table import Table

from harness.analysis.roofs import Placed
from harness.analysis.samples import summarize
from harness.cli.output import escape, readable_bytes, scale
from harness.exchange.ci import change_words, side_words
from harness.gate import Gated
from harness.results import Measurement, MeasurementSet

__all__ = ["bench_table", "gate_table", "placed_words", "roofs_table", "set_facts", "set_json", "sets_table"]

_RATES = {"FLOP/s": (1e9, "GFLOP/s"), "B/s": (1e9, "GB/s"), "1/s": (1e3, "thousand/s"), "images/s": (1, "images/s")}
_ROOFS = {
    "matmul_fp32": "product of two matrices, fp32",
    "matmul_tf32": "product of two matrices, tf32",
    "matmul_bf16": "product of two matrices, bf16",
    "copy": "memory, read and written",
    "host_to_device": "host to device",
    "launch": "operators launched",
    "decode": "JPEG of 224 x 224 decoded, a core",
}


def bench_table(records: Sequence[MeasurementSet], label: str, placed: Mapping[int, Placed]) -> Table:
    """One line a set: the median time of a batch with its 95 % interval, the tail, speed, memory, energy and roof.

    Args:
        records: the sets.
        label: theirs.
        placed: where they lie below the roofs of their machine, by the sets' numbers.
    """
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
            f"{config['batch_size'] / found.median:.4g}{_below(placed.get(record.id or 0))}",
            readable_bytes(max(peak)),
        ]
        if energies:
            joules = _values(record, "energy")
            row.append(f"{summarize(joules).median:.3g}" if joules else "")
        table.add_row(*row)
    below = "memory: of the process, or a GPU's; below the median its 95 % interval"
    if placed:
        below += ", below images/s the share of this machine's roof and what holds it there"
    else:
        below += "; `harness roofs` measures what this machine can do at most"
    if any((latency := record.measurement("latency")) and latency.details["flags"] for record in records):
        below += "; * spoilt, as said above"
    table.caption, table.caption_justify = below, "left"
    return table


def gate_table(found: Sequence[Gated], title: str) -> Table:
    """One line a benchmark: how head lies to base, what the threshold is, and the verdict."""
    table = Table(title=f"Gate: {escape(title)}", title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("what", overflow="fold")
    for heading in ("base, head", "change", "tolerated", "rounds"):
        table.add_column(heading, justify="right")
    table.add_column("verdict", no_wrap=True)
    colours = {"pass": "green", "fail": "red", "ambiguous": "yellow"}
    for one in found:
        shown = f"[{colours[one.verdict]}]{one.verdict}[/]"
        change, bounds, detects = change_words(one)
        table.add_row(
            escape(one.name),
            "\n".join(filter(None, side_words(one))),
            f"{change}\n[dim]{bounds}[/]" if change else "",
            f"{one.threshold:.1%}" + (f"\n[dim]detects {detects}[/]" if detects else ""),
            str(one.rounds),
            shown,
        )
    if any(one.decision for one in found):
        table.caption = "below the change its bounds at the stated rate; detects: a slowdown caught 95 times in 100"
        table.caption_justify = "left"
    return table


def _below(placed: Placed | None) -> str:
    return "" if placed is None else f"\n[dim]{placed_words(placed)}[/]"


def placed_words(placed: Placed) -> str:
    """Say which share of which roof was reached, and what would feed it too slowly."""
    fed = f", fed slower: {placed.fed}" if placed.fed else ""
    return f"{placed.fraction:.0%} {placed.bottleneck}{' (of a spoilt roof)' if placed.spoilt else ''}{fed}"


def roofs_table(record: MeasurementSet, title: str) -> Table:
    """One line a roof: its median with the 95 % interval."""
    table = Table(title=title, title_justify="left")
    table.add_column("roof")
    table.add_column("at most", justify="right")
    table.add_column("95 %", justify="right")
    table.add_column("n", justify="right")
    spoilt = False
    for one in record.measurements:
        name = _ROOFS[one.name]
        if not len(one.samples):
            table.add_row(name, f"[dim]{escape(one.details['absent'])}[/]")
            continue
        rate, unit = _RATES[one.unit]
        found = summarize(one.samples / rate)
        interval = f"{found.low:.4g} to {found.high:.4g}" if found.low and found.high else "few samples"
        star = " [yellow]*[/]" if one.details["flags"] else ""
        spoilt = spoilt or bool(star)
        table.add_row(name, f"{found.median:.4g} {unit}{star}", interval, str(found.n))
    if spoilt:
        table.caption = f"* spoilt, as `harness sets show {record.id}` says: measure again when the machine is quiet"
        table.caption_justify = "left"
    return table


def sets_table(records: Sequence[MeasurementSet]) -> Table:
    """One line a set."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("set", justify="right")
    table.add_column("label", overflow="fold")
    table.add_column("what", overflow="fold", ratio=1)
    for heading in ("ms, median", "n"):
        table.add_column(heading, justify="right")
    table.add_column("commit")
    table.add_column("created (UTC)")
    devices = {one.environment.device_name for one in records if one.environment}
    if len(devices) == 1:
        table.caption, table.caption_justify = f"all on {escape(devices.pop())}", "left"
    for one in records:
        latency = _values(one, "latency")
        times = [f"{1e3 * float(np.median(latency)):.4g}", str(len(latency))] if latency else ["", ""]
        if one.status != "completed":
            times[0] = f"[red]{one.status}[/]"
        spoilt = latency and (found := one.measurement("latency")) and found.details.get("flags")
        device = f", {one.environment.device_name}" if devices and one.environment else ""
        table.add_row(
            str(one.id),
            escape(one.label),
            f"{escape(one.name)}\n[dim]{escape(one.suite + device)}{', spoilt' if spoilt else ''}[/]",
            *times,
            escape((one.commit or "")[:7]),
            f"{one.created_at:%Y-%m-%d %H:%M}" if one.created_at else "",
        )
    return table


def set_facts(record: MeasurementSet, placed: Placed | None) -> Table:
    """Everything about a set but its samples."""
    rows = {
        "set": f"{record.id} ({record.uid})",
        "label": record.label,
        "suite": record.suite,
        "what": record.name,
        "status": f"{record.status}{': ' if record.message else ''}{record.message}",
        "config": ", ".join(f"{name} {value}" for name, value in record.config.items()),
        "plugins": ", ".join(f"{p.kind} {p.name} ({p.distribution} {p.version})" for p in record.plugins),
        "commit": record.commit or "",
    }
    if record.weights:
        rows["weights"] = f"{record.weights.kind}: {record.weights.origin}"
    if record.environment:
        here = record.environment
        rows["device"] = f"{here.device} ({here.device_name}), torch {here.torch}, Python {here.python}"
    for one in record.measurements:
        if not len(one.samples):
            rows[one.name.replace("_", " ")] = f"absent: {one.details.get('absent', 'no samples')}"
            continue
        factor, unit = scale(one.unit)
        found = summarize(factor * one.samples)
        interval = f", 95 % {found.low:.4g} to {found.high:.4g}" if found.low and found.high else ""
        several = f" (median{interval}, p99 {found.percentiles[99]:.4g}, n = {found.n})" if found.n > 1 else ""
        rows[one.name.replace("_", " ")] = f"{found.median:.4g} {unit}{several}".strip()
        if flags := one.details.get("flags"):
            rows[f"{one.name} spoilt"] = "; ".join(flags)
    if placed:
        rows["of the roof"] = placed_words(placed)
    facts = Table(show_header=False, box=None)
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    for name, value in rows.items():
        if value:
            facts.add_row(name, escape(value))
    return facts


def set_json(record: MeasurementSet, placed: Placed | None = None, *, samples: bool = True) -> dict[str, Any]:
    """Return a set, with every sample unless told otherwise, and where it lies below the roofs of its machine."""
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
        "measurements": [_measurement_json(one, samples) for one in record.measurements],
        "roof": asdict(placed) if placed else None,
    }


def _measurement_json(one: Measurement, samples: bool) -> dict[str, Any]:
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
    } | ({"samples": one.samples.tolist()} if samples else {})


def _values(record: MeasurementSet, name: str) -> list[float]:
    found = record.measurement(name)
    return [] if found is None else found.samples.tolist()
