from __future__ import annotations

import html
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from harness.errors import ConfigError, StoreError
from harness.report.render import render_report
from harness.results import Failure, Reason
from harness.store import Store, open_store
from results_for_pages import add_run, dataset, table_one
from store_fill import AUDITED
from support import Harness


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(str(tmp_path / "benchmark.db")) as opened:
        yield opened


def _text(page: Path) -> str:
    """The words of a page, without its charts and marks."""
    plain = re.sub(r"<(svg|style|title)\b.*?</\1>", " ", page.read_text(), flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", plain)).split())


def test_figures_equal_an_independent_count_from_the_database(store: Store, tmp_path: Path) -> None:
    table_one(store)
    text = _text(render_report(store, tmp_path / "pages"))
    with sqlite3.connect(tmp_path / "benchmark.db") as connection:
        rows = connection.execute(
            "select p.logits, s.labels, s.n from predictions p join stages t on t.id = p.stage_id "
            "join runs r on r.id = t.run_id join dataset_splits d on d.dataset_id = r.dataset_id and d.name = p.split "
            "join splits s on s.id = d.split_id where p.split = 'test'"
        ).fetchall()
    assert len(rows) == 6
    truth = np.arange(624) % 8 < 5  # how the fixture labels its images
    for logits, _, n in rows:
        correct = int((np.frombuffer(logits, "<f4").reshape(n, 2).argmax(1) == truth).sum())
        interval = binomtest(correct, n).proportion_ci(method="wilson")
        assert f"{100 * correct / n:.2f} % {100 * interval.low:.1f}–{100 * interval.high:.1f}" in text
        assert f"{correct} / {n}" in text


def test_the_papers_figures_stand_beside_ours_and_what_was_not_run_is_said(store: Store, tmp_path: Path) -> None:
    table_one(store)
    text = _text(render_report(store, tmp_path / "pages"))
    for figure in ("85.26 %", "82.69 %", "86.22 %", "84.13 %", "86.54 %", "83.97 %", "87.34 %"):
        assert figure in text
    assert re.search(r"resnet18 not run 86\.54 % not run", text)
    assert "The protocol differs from the paper" in text
    assert "frozen.epochs" in text


def test_how_a_stage_was_computed_stands_on_the_runs_page(harness: Harness, store: Store, tmp_path: Path) -> None:
    table_one(store)
    run = next(run for run in store.runs() if run.status == "completed")
    render_report(store, tmp_path / "out")
    page = (tmp_path / "out" / "runs" / f"{run.id}.html").read_text()
    shown = harness("runs", "show", str(run.id), "--db", store.database.name).stdout
    for text in (page, shown):
        assert "624 taken from earlier runs, where they took 8.1" in text
        assert "computed the whole network, because BatchNorm follows the batches" in text


def test_what_the_data_set_is_worth_stands_on_both_pages(harness: Harness, store: Store, tmp_path: Path) -> None:
    because = Reason("leaky", "2 of 5 validation images <b> show a patient", ("val",))
    passport = replace(AUDITED, reasons=(because, *AUDITED.reasons[1:]))
    run_id = add_run(store, "an experiment", "resnet18", data=replace(dataset(), passport=passport))
    front = render_report(store, tmp_path / "pages")
    page = tmp_path / "pages" / "runs" / f"{run_id}.html"
    for text in map(_text, (front, page)):
        assert "Data set chest-xray leaky 2 of 5 validation images <b> show a patient." in text
        assert "twice" in text
        assert "NORMAL below 7.0 bytes, else PNEUMONIA; right on 50.00 % of test, AUC 0.333" in text
        assert "trivial answer by most frequent class: always NORMAL; right on 33.33 % of test" in text
    assert '<span class="badge leaky">leaky</span>' in page.read_text()
    shown = harness("runs", "show", str(run_id), "--db", store.database.name).stdout
    assert "leaky: 2 of 5 validation images" in shown


def test_what_was_stored_before_there_were_audits_is_called_not_audited(
    harness: Harness, store: Store, tmp_path: Path
) -> None:
    run_id = add_run(store, "an experiment", "resnet18", data=dataset())
    front = render_report(store, tmp_path / "pages")
    for text in map(_text, (front, tmp_path / "pages" / "runs" / f"{run_id}.html")):
        assert "Data set chest-xray not audited Whether its splits share patients or files is not known" in text
    assert "not audited" in harness("runs", "show", str(run_id), "--db", store.database.name).stdout


def test_random_weights_failures_and_unfinished_runs_are_plain_to_see(store: Store, tmp_path: Path) -> None:
    table_one(store)
    index = render_report(store, tmp_path / "pages")
    text = _text(index)
    assert "Random weights, not pretrained" in text
    assert "random weights" in text.lower()
    assert "The size of tensor a (299) must match" in text
    assert "running" in text
    failed = _text(index.parent / "runs" / "4.html")
    assert "RuntimeError: sizes" in failed


def test_synthetic_images_are_announced_on_every_page(store: Store, tmp_path: Path) -> None:
    experiment = "phantom"
    add_run(store, experiment, "resnet18", data=dataset(name="phantom", synthetic=True))
    index = render_report(store, tmp_path / "pages")
    for page in (index, index.parent / "runs" / "1.html"):
        assert "synthetic images" in _text(page).lower()


def test_the_same_database_gives_the_same_bytes(store: Store, tmp_path: Path) -> None:
    table_one(store)
    first, second = (render_report(store, tmp_path / name).parent for name in ("a", "b"))
    pages = sorted(path.relative_to(first) for path in first.rglob("*.html"))
    assert len(pages) == 7
    for page in pages:
        assert (first / page).read_bytes() == (second / page).read_bytes()


def test_hostile_text_stays_text(store: Store, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    experiment = f"exp {evil}"
    add_run(store, experiment, f"net {evil}", data=dataset(), command=f"harness run {evil}")
    add_run(store, experiment, "b", data=dataset(), stop_after=0, status="failed", failure=Failure("E", evil, evil))
    index = render_report(store, tmp_path / "pages")
    for page in index.parent.rglob("*.html"):
        content = page.read_text()
        assert "<script" not in content
        assert "<img" not in content
        assert "alert(1)" in html.unescape(content)


def test_identifiers_are_unique_within_a_page(store: Store, tmp_path: Path) -> None:
    table_one(store)
    for page in render_report(store, tmp_path / "pages").parent.rglob("*.html"):
        found = re.findall(r'\bid="([^"]+)"', page.read_text())
        assert len(found) == len(set(found)), page


def test_nothing_is_fetched(store: Store, tmp_path: Path) -> None:
    table_one(store)
    for page in render_report(store, tmp_path / "pages").parent.rglob("*.html"):
        links = re.findall(r'(?:src|href|url)\s*[=(]\s*["\']?([^"\')\s>]+)', page.read_text())
        assert all(link.startswith(("#", "data:")) or (page.parent / link.split("#")[0]).exists() for link in links)


def test_other_experiments_have_pages_of_their_own(store: Store, tmp_path: Path) -> None:
    for name in ("first", "second"):
        add_run(store, name, "resnet18", data=dataset())
    index = render_report(store, tmp_path / "pages", everything=True)
    assert "second" in _text(index)
    assert (index.parent / "experiments" / "1.html").is_file()
    render_report(store, tmp_path / "pages", experiment="first")
    assert not (index.parent / "experiments" / "1.html").exists(), "a page that is no longer written is removed"
    assert "1 other experiment is on" in _text(index)
    board = (index.parent / "leaderboard.html").read_text()
    assert 'href="runs/1.html"' in board
    assert 'href="runs/2.html"' not in board, "the other run has no page now"
    assert "second" in board
    with pytest.raises(StoreError, match="'third' is not in the database"):
        render_report(store, tmp_path / "pages", experiment="third")


def test_a_folder_with_other_files_is_left_alone(store: Store, tmp_path: Path) -> None:
    table_one(store)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="holds other files"):
        render_report(store, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    with pytest.raises(ConfigError, match="this is a file"):
        render_report(store, tmp_path / "mine" / "thesis.tex")


def test_the_command(harness: Harness, store: Store, tmp_path: Path) -> None:
    empty = harness("report")
    assert empty.returncode == 2
    assert "no runs yet" in empty.stderr
    missing = harness("report", "--db", "missing.db")
    assert missing.returncode == 2
    assert "missing.db" in missing.stderr
    table_one(store)
    done = harness("report", "--out", "pages", "--json")
    assert done.returncode == 0, done.stderr
    assert Path(json.loads(done.stdout)["index"]).is_file()


def test_making_a_report_imports_no_torch(store: Store, tmp_path: Path) -> None:
    table_one(store)
    program = (
        "import sys; from harness.cli import main\n"
        f"try: main(['report', '--db', {str(tmp_path / 'benchmark.db')!r}, '--out', {str(tmp_path / 'p')!r}])\n"
        "except SystemExit as done: assert not done.code, done.code\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
