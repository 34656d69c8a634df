"""What other tools are given, read back by their own rules."""

from __future__ import annotations

import json
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from harness.analysis.gate import Decision
from harness.comparison import Side
from harness.exchange.ci import FORMATS, gate_junit, gate_markdown
from harness.gate import Gated

CONDITIONS = {"device": "a processor", "torch": "2.14.1"}
SIDES = {
    "net inference fp32 batch 8": Side(
        "net inference fp32 batch 8", CONDITIONS, 8, (np.linspace(0.09, 0.11, 21), np.linspace(0.09, 0.11, 21))
    ),
    "test_speed.py::test_few": Side(
        "test_speed.py::test_few", CONDITIONS, None, (np.array([0.002, 0.004]),), spoilt=True
    ),
}
GATED = [
    Gated("net batch 8", 0.05, "pass", 3, 0.1, 0.101, Decision(0.01, -0.02, 0.04, 0.11, 0.01, "pass")),
    Gated("net batch 1", 0.05, "fail", 6, 0.01, 0.013, Decision(0.3, 0.2, 0.4, 0.2, 0.02, "fail")),
    Gated("accuracy", 0.01, "ambiguous", 1, 0.9, 0.88, Decision(0.02, -0.01, 0.05, None, None, "ambiguous")),
    Gated("`x`|<b>@somebody\0", 0.05, "fail", 0, message="head cannot be measured: <script> | \x1b[31m `it`"),
]


def test_github_action_benchmark_gets_what_its_custom_tool_reads() -> None:
    found = json.loads(FORMATS["github-action-benchmark"](SIDES))
    assert [one["name"] for one in found] == list(SIDES)
    for one in found:
        assert isinstance(one["value"], float)
        assert one["unit"] == "ms"
        assert all(isinstance(one[key], str) for key in one.keys() - {"value"})
    assert found[0]["value"] == pytest.approx(100)
    assert found[0]["range"].startswith("± ")
    assert "range" not in found[1]
    assert found[1]["extra"] == "2 in 1 process, spoilt, a processor, 2.14.1"
    assert found[0]["extra"] == "42 in 2 processes, a processor, 2.14.1"


def test_bencher_gets_nanoseconds_within_their_bounds() -> None:
    found = json.loads(FORMATS["bencher"](SIDES))
    assert list(found) == list(SIDES)
    latency = found["net inference fp32 batch 8"]["latency"]
    assert latency["value"] == pytest.approx(1e8)
    assert latency["lower_value"] < latency["value"] < latency["upper_value"]
    assert found["net inference fp32 batch 8"]["throughput"] == {"value": pytest.approx(80)}
    assert found["test_speed.py::test_few"] == {"latency": {"value": pytest.approx(3e6)}}, "two have no interval"


def test_markdown_has_a_row_each() -> None:
    lines = FORMATS["markdown"](SIDES).splitlines()
    assert len(lines) == 4
    assert {line.count("|") for line in lines} == {8}
    assert "`net inference fp32 batch 8` | 100 | " in lines[2]
    assert "| 3 | few samples | 3.98 |  | 2 in 1 process, spoilt |" in lines[3]


def test_a_gate_in_markdown_shows_names_and_renders_none() -> None:
    text = gate_markdown(GATED, "main", "a|b `c`", 0.01)
    assert text.startswith("### harness gate: fail\n\n`a\\|b 'c'` against `main`. At most 1.0% ")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(GATED)
    assert {line.replace("\\|", "").count("|") for line in rows} == {10}
    assert "| `net batch 1` | 10 ms | 13 ms | +30.0% | +20.0% to +40.0% | 20.0% | 5.0% | 6 | **fail** |" in rows
    assert "| `accuracy` | 90.00% | 88.00% | -2.0% | -5.0% to +1.0% |  | 1.0% | 1 | **ambiguous** |" in rows
    assert "`'x'\\|<b>@somebody\N{REPLACEMENT CHARACTER}`" in rows[-1]
    assert "\x1b" not in text


def test_a_gate_in_junit_counts_what_failed() -> None:
    suites = ET.fromstring(gate_junit(GATED))
    (suite,) = suites
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("4", "2", "1")
    cases = list(suite)
    assert [[child.tag for child in case] for case in cases] == [
        ["system-out"],
        ["failure", "system-out"],
        ["error", "system-out"],
        ["failure", "system-out"],
    ]
    assert "change +30.0% (+20.0% to +40.0%)" in cases[1][0].get("message")
    assert "<script>" in cases[3][0].get("message")
