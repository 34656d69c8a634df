"""Tests by LoadGen as a person reads them."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from harness.analysis.samples import summarize
from harness.cli.output import escape
from harness.results import Measurement, MeasurementSet

__all__ = ["is_valid", "reasons", "result_words", "scenario_table"]


def is_valid(record: MeasurementSet) -> bool:
    """Tell whether LoadGen calls a test valid; what is none of its tests is."""
    result = record.measurement("loadgen_result")
    return result is None or bool(result.details["valid"])


def reasons(record: MeasurementSet) -> list[str]:
    """Return why LoadGen does not call a test valid: what was not satisfied, and its own words."""
    result = record.measurement("loadgen_result")
    if result is None or is_valid(record):
        return []
    missed = _missed(result)
    return [*([f"not satisfied: {', '.join(missed)}"] if missed else []), *result.details["reasons"]]


def _missed(result: Measurement) -> list[str]:
    return [words for words, satisfied in result.details["requirements"].items() if not satisfied]


def result_words(record: MeasurementSet) -> str:
    """Say what LoadGen's result is; of a server, what was asked of it too."""
    found = (record.measurement(name) for name in ("loadgen_result", "scheduled_samples"))
    return ", ".join(_words(one) for one in found if one is not None)


def _words(one: Measurement) -> str:
    value = float(one.samples[0])
    return (
        f"{one.details['metric']}: {1e3 * value:.4g} ms"
        if one.unit == "s"
        else f"{value:.4g} {one.details['metric']}/s"
    )


def scenario_table(records: Sequence[MeasurementSet], label: str) -> Table:
    """One line a test: LoadGen's result, its queries' latencies, and whether it is valid."""
    table = Table(title=f"Measured by LoadGen, {escape(label)}", title_justify="left")
    table.add_column("set", justify="right")
    table.add_column("what", overflow="fold")
    table.add_column("batch", justify="right")
    table.add_column("result", overflow="fold")
    for heading in ("n", "ms, median", "p99"):
        table.add_column(heading, justify="right")
    table.add_column("valid")
    for record in records:
        config = record.config
        what = f"{config['backbone']}\n[dim]{config['scenario']}, {config['precision']}[/]"
        latency, result = record.measurement("latency"), record.measurement("loadgen_result")
        if record.status != "completed" or latency is None or result is None:
            table.add_row(str(record.id), what, str(config["batch_size"]), f"[red]{record.status}[/]")
            continue
        found = summarize(latency.samples)
        spoilt = " [yellow]*[/]" if latency.details["flags"] else ""
        table.add_row(
            str(record.id),
            what,
            str(config["batch_size"]),
            escape(result_words(record)),
            str(len(latency.samples)),
            f"{1e3 * found.median:.4g}{spoilt}",
            f"{1e3 * found.percentiles[99]:.4g}",
            "[green]yes[/]" if is_valid(record) else f"[red]no[/]: {escape(', '.join(_missed(result)))}",
        )
    table.caption = "n, median, p99: of queries; offline, of batches; * spoilt, as said above"
    table.caption_justify = "left"
    return table
