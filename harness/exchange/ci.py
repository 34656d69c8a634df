"""What was measured, or decided, as other tools of continuous integration read it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

import numpy as np

from harness.analysis.compare import interval_of_median
from harness.comparison import Side
from harness.gate import Gated, overall

__all__ = ["FORMATS", "change_words", "gate_junit", "gate_markdown", "side_words"]


@dataclass(frozen=True)
class _Times:
    """Of one side, in seconds: the median of all samples with its 95 % interval, and the 99th percentile."""

    median: float
    interval: tuple[float, float] | None
    p99: float
    samples: str
    conditions: str
    images_per_second: float | None


def _times(side: Side) -> _Times:
    pooled = np.concatenate(side.processes)
    median = float(np.median(pooled))
    several = "es" if len(side.processes) > 1 else ""
    return _Times(
        median,
        interval_of_median(side.processes),
        float(np.percentile(pooled, 99)),
        f"{len(pooled)} in {len(side.processes)} process{several}{', spoilt' if side.spoilt else ''}",
        ", ".join(side.conditions.values()),
        side.batch_size / median if side.batch_size else None,
    )


def _github_action(sides: Mapping[str, Side]) -> str:
    """For github-action-benchmark's tool ``customSmallerIsBetter``: medians in milliseconds."""
    found = []
    for name, side in sides.items():
        times = _times(side)
        found.append(
            {"name": name, "unit": "ms", "value": 1e3 * times.median}
            | ({"range": f"± {1e3 * float(np.ptp(times.interval)) / 2:.4g}"} if times.interval else {})
            | {"extra": f"{times.samples}, {times.conditions}"}
        )
    return json.dumps(found, indent=2, ensure_ascii=False)


def _bencher(sides: Mapping[str, Side]) -> str:
    """In Bencher's Metric Format: ``latency`` in nanoseconds, ``throughput`` in images a second."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, side in sides.items():
        times = _times(side)
        bounds = {"value": times.median}
        if times.interval:
            bounds["lower_value"], bounds["upper_value"] = times.interval
        found[name] = {"latency": {key: 1e9 * seconds for key, seconds in bounds.items()}}
        if times.images_per_second:
            found[name]["throughput"] = {"value": times.images_per_second}
    return json.dumps(found, indent=2, ensure_ascii=False)


def _markdown(sides: Mapping[str, Side]) -> str:
    """As a table."""
    rows = []
    for name, side in sides.items():
        times = _times(side)
        rows.append(
            (
                _code(name),
                f"{1e3 * times.median:.4g}",
                " to ".join(f"{1e3 * bound:.4g}" for bound in times.interval or ()) or "few samples",
                f"{1e3 * times.p99:.4g}",
                f"{times.images_per_second:.4g}" if times.images_per_second else "",
                times.samples,
                _code(times.conditions),
            )
        )
    return _table(("benchmark", "ms, median", "95 %", "p99", "images/s", "samples", "device, torch"), rows)


FORMATS: Mapping[str, Callable[[Mapping[str, Side]], str]] = {
    "github-action-benchmark": _github_action,
    "bencher": _bencher,
    "markdown": _markdown,
}


def gate_markdown(found: Sequence[Gated], base: str, head: str, false_alarms: float) -> str:
    """Return a gate's verdicts for a job's page, or a comment. Names are shown as they are, and never rendered."""
    rows = [
        (_code(one.name), *side_words(one), *change_words(one), f"{one.threshold:.1%}", str(one.rounds), _verdict(one))
        for one in found
    ]
    headings = ("benchmark", "base", "head", "change", "bounds", "detects", "tolerated", "rounds", "verdict")
    return (
        f"### harness gate: {overall(found)}\n\n"
        f"{_code(head)} against {_code(base)}. At most {false_alarms:.1%} of gates fail, or pass, wrongly; `detects` "
        "is a slowdown that would be caught 95 times in 100.\n\n" + _table(headings, rows)
    )


def gate_junit(found: Sequence[Gated]) -> str:
    """Return a gate's verdicts as JUnit's XML: ``fail`` is a failure, ``ambiguous`` an error."""
    failures, errors = (sum(one.verdict == verdict for one in found) for verdict in ("fail", "ambiguous"))
    counts = {"tests": str(len(found)), "failures": str(failures), "errors": str(errors)}
    suite = ET.Element("testsuite", {"name": "harness gate", **counts})
    for one in found:
        case = ET.SubElement(suite, "testcase", {"classname": "harness.gate", "name": _no_control(one.name)})
        base, head = side_words(one)
        change, bounds, detects = change_words(one)
        said = f"base {base}, head {head}, change {change} ({bounds}), tolerated {one.threshold:.1%}, detects {detects}"
        text = _no_control(one.message or said)
        if one.verdict != "pass":
            kind = "failure" if one.verdict == "fail" else "error"
            ET.SubElement(case, kind, {"type": one.verdict, "message": text})
        ET.SubElement(case, "system-out").text = f"{text}; {one.rounds} rounds"
    suites = ET.Element("testsuites", counts)
    suites.append(suite)
    ET.indent(suites)
    return f"{ET.tostring(suites, encoding='unicode', xml_declaration=True)}\n"


def side_words(one: Gated) -> tuple[str, str]:
    """Return base's time or accuracy, and head's; empty where there is none."""
    of_time = one.decision is None or one.decision.detectable is not None
    base, head = (
        "" if value is None else f"{1e3 * value:.4g} ms" if of_time else f"{value:.2%}"
        for value in (one.base, one.head)
    )
    return base, head


def change_words(one: Gated) -> tuple[str, str, str]:
    """Return the change, its bounds, and what would be detected; empty where there is none."""
    decision = one.decision
    if decision is None:
        return "", "", ""
    if decision.detectable is None:  # of accuracy a change for the worse is a fall
        return f"{0.0 - decision.change:+.1%}", f"{0.0 - decision.high:+.1%} to {0.0 - decision.low:+.1%}", ""
    return f"{decision.change:+.1%}", f"{decision.low:+.1%} to {decision.high:+.1%}", f"{decision.detectable:.1%}"


def _verdict(one: Gated) -> str:
    shown = f"**{one.verdict}**" if one.verdict != "pass" else one.verdict
    return f"{shown}: {_code(one.message)}" if one.message else shown


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _code(text: str) -> str:
    """Show text as it is, in a cell: no mark-up, no mention of a person, no end of the cell."""
    plain = " ".join(_no_control(text).replace("`", "'").replace("|", "\\|").split())
    return f"`{plain}`" if plain else ""


def _no_control(text: str) -> str:
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\N{REPLACEMENT CHARACTER}", text)
