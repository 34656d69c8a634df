"""Charts as inline SVG: a view in, markup out. Colours are the page's own variables, so they follow its theme."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, Literal

import altair as alt
import vl_convert
from markupsafe import Markup, escape

from harness.report.parts import CurvePoint, Curves, Latency
from harness.report.specification import Conclusion
from harness.report.text import millis, points
from harness.report.views import Point, Scatter

__all__ = ["accuracy_chart", "latency_chart", "loss_chart", "scatter_chart", "specification_chart"]

WIDTH, HEIGHT = 360, 220
STAGE_COLOURS = 4
_PLOT = (310, 210)  # of a scatter chart, about
_LABEL_PIXELS, _LETTER_PIXELS = 13, 6
_Box = tuple[float, float, float, float]  # left, right, bottom, top

_CONFIG: dict[str, Any] = {
    "aria": False,
    "background": "transparent",
    "padding": {"left": 2, "right": 8, "top": 4, "bottom": 2},
    "view": {"stroke": None},
    "axis": {
        "domainColor": "var(--line)",
        "gridColor": "var(--grid)",
        "labelColor": "var(--muted)",
        "labelFontSize": 11,
        "ticks": False,
        "labelPadding": 6,
        "titleColor": "var(--muted)",
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "titlePadding": 6,
    },
    "axisX": {"grid": False},
    "axisY": {"domain": False, "titleAnchor": "end"},
    "text": {"fontSize": 11, "fill": "var(--ink)"},
}

_TAG = re.compile(r"<[^>]*>")
_ID = re.compile(r'(id="|url\(#|href="#)([^")]+)')
_NOISE = re.compile(r' (?:(?:aria-[a-z]+|role|pointer-events|class|font-family)="[^"]*"|opacity="1")')
_EMPTY = re.compile(r'<path [^>]*d="(?:M0,0h0v0h0Z)?"[^>]*/>')


def _svg(layers: Sequence[Any], name: str, prefix: str, height: int = HEIGHT) -> Markup:
    """Draw charts over each other, ``height`` pixels high with their axes; the rest as of :func:`_draw`."""
    size = alt.AutoSizeParams(type="fit", contains="padding")
    return _draw(alt.layer(*layers).properties(width=WIDTH, height=height, autosize=size), name, prefix)


def _draw(chart: Any, name: str, prefix: str) -> Markup:
    """Draw a chart.

    Args:
        chart: altair's.
        name: what a screen reader says of it.
        prefix: put before each id, so that charts of one page do not clash.
    """
    spec = chart.to_dict(validate=False)  # Vega says what is wrong with it; altair's check takes half the time
    spec["config"] = _CONFIG
    drawn = _EMPTY.sub("", vl_convert.vegalite_to_svg(spec))
    # vl-convert counts ids through the life of a process: count them anew
    ids: dict[str, str] = {}

    def tidied(tag: re.Match[str]) -> str:
        return _ID.sub(
            lambda found: found[1] + ids.setdefault(found[2], f"{prefix}-{len(ids)}"), _NOISE.sub("", tag[0])
        )

    drawn = _TAG.sub(tidied, drawn).removeprefix("<svg ")
    return Markup(f'<svg role="img" aria-label="{escape(name)}" ') + Markup(drawn)  # noqa: S704


def _data(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"values": list(rows)}


def accuracy_chart(curves: Curves, domain: tuple[float, float], prefix: str) -> Markup:
    """Training and validation accuracy per epoch, on the scale ``domain``."""
    rows = _curve_rows(curves.points, "accuracy")
    axis = alt.Axis(format=".0%", tickCount=5)
    return _curves(curves, rows, "accuracy", alt.Scale(domain=list(domain), nice=False), axis, prefix)


def loss_chart(curves: Curves, prefix: str) -> Markup:
    """Training and validation cross-entropy per epoch, from zero."""
    rows = _curve_rows(curves.points, "loss")
    return _curves(curves, rows, "loss", alt.Scale(zero=True), alt.Axis(tickCount=5), prefix)


def _curve_rows(points: Sequence[CurvePoint], quantity: str) -> list[dict[str, Any]]:
    rows = [
        {"epoch": point.epoch, "stage": str(point.stage), "kind": kind, "y": getattr(point, f"{kind}_{quantity}")}
        for point in points
        for kind in ("train", "val")
    ]
    return [row for row in rows if row["y"] is not None]


def _curves(
    curves: Curves, rows: list[dict[str, Any]], quantity: str, scale: alt.Scale, axis: alt.Axis, prefix: str
) -> Markup:
    last = curves.spans[-1].end
    stages = [str(number) for number in range(len(curves.spans))]
    x = (
        alt.X("epoch:Q")
        .scale(domain=[0.5, last], nice=False)
        .axis(format="d", tickCount=6, tickMinStep=1)
        .title("epoch")
    )
    y = alt.Y("y:Q").scale(scale).axis(axis).title(None)
    colour = (
        alt.Color("stage:N")
        .scale(domain=stages, range=[f"var(--s{number % STAGE_COLOURS + 1})" for number in range(len(stages))])
        .legend(None)
    )
    dash = alt.StrokeDash("kind:N").scale(domain=["train", "val"], range=[[3, 3], [1, 0]]).legend(None)
    width = alt.StrokeWidth("kind:N").scale(domain=["train", "val"], range=[1.4, 2]).legend(None)
    base = alt.Chart(_data(rows)).encode(x=x, y=y, color=colour)
    layers: list[Any] = [base.mark_line(strokeJoin="round").encode(strokeDash=dash, strokeWidth=width, detail="kind:N")]
    if last < 13:
        layers.append(base.mark_point(filled=True, size=14, opacity=1))
    tested = {span.tested for span in curves.spans}
    ring = [row for row in rows if row["kind"] == "val" and row["epoch"] in tested]
    if ring:
        marks = alt.Chart(_data(ring)).encode(x=x, y=y, color=colour)
        layers.append(marks.mark_point(size=60, strokeWidth=1.6, fill="var(--paper)", opacity=1))
    starts = [{"epoch": span.start, "label": span.name, "stage": stages[n]} for n, span in enumerate(curves.spans)]
    if starts[1:]:
        rule = alt.Chart(_data(starts[1:])).mark_rule(strokeDash=[2, 3], stroke="var(--muted)")
        layers.append(rule.encode(x=x))
    names = alt.Chart(_data(starts)).mark_text(align="left", baseline="bottom", dx=3, dy=-5, fontSize=11, limit=150)
    layers.append(names.encode(x=x, y=alt.value(0), text="label:N", color=colour))
    spoken = ", ".join(span.name for span in curves.spans)
    name = f"{curves.label}: training and validation {quantity} per epoch, stages {spoken}"
    return _svg(layers, name, prefix)


def latency_chart(latency: Latency, label: str, prefix: str) -> Markup:
    """Every latency sample in the order of the calls, with the median and the 95th percentile."""
    rows = [{"call": number, "y": seconds * 1e3} for number, seconds in enumerate(latency.samples, 1)]
    x = (
        alt.X("call:Q")
        .scale(domain=[0, 1.45 * latency.n], nice=False)
        .axis(format="d", values=_calls(latency.n))
        .title("call")
    )
    y = alt.Y("y:Q").scale(zero=False, padding=6).axis(tickCount=4).title("ms")
    points = alt.Chart(_data(rows)).mark_point(filled=True, size=12, opacity=0.75, color="var(--s1)").encode(x=x, y=y)
    lines = [
        {"y": latency.median * 1e3, "label": f"median {millis(latency.median)}"},
        {"y": latency.p95 * 1e3, "label": f"p95 {millis(latency.p95)}"},
    ]
    base = alt.Chart(_data(lines))
    rule = base.mark_rule(stroke="var(--muted)", strokeDash=[2, 3]).encode(y=y)
    text = base.mark_text(align="right", baseline="bottom", dy=-3, fontSize=11).encode(
        x=alt.value("width"), y=y, text="label:N"
    )
    name = (
        f"{label}: latency of each of {latency.n} calls at batch {latency.batch_size}, "
        f"median {millis(latency.median)}, 95th percentile {millis(latency.p95)}"
    )
    return _svg([points, rule, text], name, prefix, height=170)


def _calls(n: int) -> list[int]:
    return [1, n // 2, n] if n > 2 else list(range(1, n + 1))


def scatter_chart(scatter: Scatter, domain: tuple[float, float], prefix: str) -> Markup:
    """Accuracy against a cost, with intervals on both; hollow points are of random weights."""
    low = min(point.x_low for point in scatter.points)
    high = max(point.x_high for point in scatter.points)
    logarithmic = high > 10 * low > 0
    x_domain = [low / 1.6, high * 1.6] if logarithmic else [0, high * 1.12]
    x = (
        alt.X("x:Q")
        .scale(type="log" if logarithmic else "linear", domain=x_domain, nice=False)
        .axis(tickCount=5, format=",.3~r")
        .title(scatter.unit)
    )
    y = alt.Y("y:Q").scale(domain=list(domain), nice=False).axis(format=".0%", tickCount=5).title(None)
    rows = [
        {
            "x": point.x,
            "x_low": point.x_low,
            "x_high": point.x_high,
            "y": point.y,
            "y_low": point.y_low,
            "y_high": point.y_high,
            "label": point.label,
            "random": point.random,
        }
        for point in scatter.points
    ]
    base = alt.Chart(_data(rows))
    # every layer names the domain: one that did not would stretch the common axis to zero
    y_low, x_low = y.copy(), x.copy()
    y_low.shorthand, x_low.shorthand = "y_low:Q", "x_low:Q"
    layers: list[Any] = [
        base.mark_rule(stroke="var(--s1)", opacity=0.55, strokeWidth=1.4).encode(x=x, y=y_low, y2="y_high:Q"),
        base.mark_rule(stroke="var(--s1)", opacity=0.55, strokeWidth=1.4).encode(x=x_low, x2="x_high:Q", y=y),
        base.mark_point(size=54, strokeWidth=1.8, opacity=1, stroke="var(--s1)").encode(
            x=x,
            y=y,
            fill=alt.Fill("random:N").scale(domain=[False, True], range=["var(--s1)", "var(--paper)"]).legend(None),
        ),
    ]
    labels = _labels(scatter.points, x_domain, logarithmic, domain)
    sides: tuple[tuple[Literal["left", "right"], int], ...] = (("left", 8), ("right", -8))
    for side, dx in sides:
        placed = [row for row in labels if row["side"] == side]
        if placed:
            text = alt.Chart(_data(placed)).mark_text(align=side, baseline="middle", dx=dx, fontSize=11, limit=200)
            layers.append(text.encode(x=x, y=y, text="label:N"))
    name = f"Test accuracy against {scatter.title}: " + "; ".join(
        f"{point.label}, {point.x:.4g} {scatter.unit}, {point.y:.1%}" for point in scatter.points
    )
    return _svg(layers, name, prefix, height=260)


def specification_chart(conclusion: Conclusion, choices: Sequence[str], prefix: str) -> Markup:
    """The effect under each reading with its interval, the least first, above what each reading chose."""
    width = max(300, min(760, 26 * len(conclusion.readings)))
    effects, chosen = [], []
    for place, reading in enumerate(conclusion.readings):
        low, high = reading.effect.interval or (reading.effect.value, reading.effect.value)
        said = reading.effect.verdict
        row = {"x": place, "y": 100 * reading.effect.value, "low": 100 * low, "high": 100 * high, "verdict": said}
        effects.append(row)
        chosen += [
            {"x": place, "row": f"{name} = {value}", "verdict": said}
            for name, value in zip(choices, reading.values, strict=True)
        ]
    rows = [f"{mean.choice} = {mean.value}" for mean in conclusion.means]
    left = min(340, 12 + _LETTER_PIXELS * max(map(len, rows)))  # the same on both, so that their columns meet
    x = alt.X("x:O").axis(None)
    y = alt.Y("y:Q").scale(zero=True, padding=8).axis(tickCount=6, minExtent=left, maxExtent=left).title("points")
    low_end = y.copy()
    low_end.shorthand = "low:Q"
    verdicts, colours = ["fall", "undecided", "rise"], ["var(--s2)", "var(--muted)", "var(--s1)"]
    colour = alt.Color("verdict:N").scale(domain=verdicts, range=colours).legend(None)
    base = alt.Chart(_data(effects))
    zero = alt.Chart(_data([{"y": 0}])).mark_rule(stroke="var(--ink)", strokeWidth=1).encode(y=y)
    bars = base.mark_rule(strokeWidth=1.6, opacity=0.6).encode(x=x, y=low_end, y2="high:Q", color=colour)
    marks = base.mark_point(filled=True, size=52, opacity=1).encode(x=x, y=y, color=colour)
    curve = alt.layer(zero, bars, marks).properties(width=width, height=190)
    taken = alt.Chart(_data(chosen)).mark_point(filled=True, shape="square", size=58, opacity=1)
    names = (
        alt.Y("row:N")
        .sort(rows)
        .axis(labelLimit=left, minExtent=left, maxExtent=left, grid=True, domain=False)
        .title(None)
    )
    below = taken.encode(x=x, y=names, color=colour).properties(width=width, height=17 * len(rows))
    lowest, highest = conclusion.readings[0].effect.value, conclusion.readings[-1].effect.value
    name = (
        f"{conclusion.title}: {len(conclusion.readings)} readings from {points(lowest)} to {points(highest)} points. "
        f"{conclusion.summary}"
    )
    return _draw(alt.vconcat(curve, below, spacing=8), name, prefix)


def _labels(
    points: Sequence[Point], x_domain: Sequence[float], logarithmic: bool, y_domain: tuple[float, float]
) -> list[dict[str, Any]]:
    """Place each label beside its point, at the nearest height where it covers no point, bar or other label."""
    place = math.log if logarithmic else float
    left, right = (place(bound) for bound in x_domain)
    per_pixel = (y_domain[1] - y_domain[0]) / _PLOT[1]
    boxes = []
    for point in points:
        x = (place(point.x) - left) / (right - left) * _PLOT[0]
        bottom, top = ((bound - y_domain[0]) / per_pixel for bound in (point.y_low, point.y_high))
        boxes.append((x - 4, x + 4, bottom, top))
    rows = []
    for point, (start, end, _, _) in sorted(zip(points, tuple(boxes), strict=True), key=lambda pair: -pair[0].y):
        width = _LETTER_PIXELS * len(point.label)
        own = (point.y - y_domain[0]) / per_pixel
        sides = (("left", end + 4), ("right", start - 4 - width))
        candidates = [
            (side, x, own + shift * _LABEL_PIXELS)
            for shift in (0, 1, -1, 2, -2, 3, -3)
            for side, x in (sides if end < _PLOT[0] / 2 else sides[::-1])
        ]
        taken = [(x, x + width, y - _LABEL_PIXELS / 2 + 1, y + _LABEL_PIXELS / 2 - 1) for _, x, y in candidates]
        free = (number for number, box in enumerate(taken) if box[0] >= 0 and box[1] <= _PLOT[0] and box[2] >= 0)
        chosen = next((n for n in free if not any(_overlap(taken[n], other) for other in boxes)), 0)
        boxes.append(taken[chosen])
        side, _, y = candidates[chosen]
        rows.append({"x": point.x, "y": y_domain[0] + y * per_pixel, "label": point.label, "side": side})
    return rows


def _overlap(one: _Box, other: _Box) -> bool:
    return one[0] < other[1] and other[0] < one[1] and one[2] < other[3] and other[2] < one[3]
