"""What tables say beside figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from harness.cli.tables import of_one_class
from harness.store import open_store
from results_for_pages import table_one


def test_a_run_that_calls_every_image_the_same_is_named(tmp_path: Path) -> None:
    with open_store(str(tmp_path / "benchmark.db")) as store:
        table_one(store)
        run = next(run for run in store.runs() if run.backbone == "alexnet")
    assert of_one_class([run]) == []
    *before, last = run.stages
    blind = replace(run, stages=(*before, replace(last, test_confusion=((0, 234), (0, 390)))))
    assert of_one_class([run, blind]) == [f"{run.backbone} calls every test image {run.dataset.classes[1]}"]
