"""The committed sample is what the committed database gives."""

from __future__ import annotations

import re
from pathlib import Path

from harness.report.render import render_report
from harness.store import open_store
from support import ROOT

SAMPLE = ROOT / "reports" / "sample"


def _without_charts(page: Path) -> str:
    # text in charts is laid out with the machine's own fonts
    return re.sub(r"<svg\b.*?</svg>", "", page.read_text(), flags=re.DOTALL)


def test_the_sample_report_is_current(tmp_path: Path) -> None:
    with open_store(str(ROOT / "benchmark.db.example"), create=False) as store:
        front = "The paper on a GPU"
        made = render_report(store, tmp_path / "sample", experiment=front, everything=True)
    pages = {path.relative_to(made.parent) for path in made.parent.rglob("*.html")}
    assert pages == {path.relative_to(SAMPLE) for path in SAMPLE.rglob("*.html")}, "run: make sample"
    for page in pages:
        assert _without_charts(made.parent / page) == _without_charts(SAMPLE / page), f"{page}: run: make sample"
