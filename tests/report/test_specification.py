"""The specification curve: what it concludes equals what the stored predictions say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from harness.report.render import render_report
from harness.report.specification import choices, specification
from harness.results import Run
from harness.store import Store, open_store
from results_for_pages import add_run, add_vote, dataset

NAMES = ("alexnet", "resnet18")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(str(tmp_path / "benchmark.db")) as opened:
        yield opened


def _four_readings(store: Store, experiment: str = "readings") -> list[Run]:
    """Two networks under two epochs of each of two stages; the second network leads, and fine-tuning changes it."""
    ids = []
    for frozen in (3, 4):
        for finetune in (1, 2):
            team = [
                add_run(
                    store, experiment, name, data=dataset(), frozen=frozen, finetune=finetune,
                    accuracies=(0.80 + 0.08 * place, 0.86 - 0.02 * finetune),
                )
                for place, name in enumerate(NAMES)
            ]  # fmt: skip
            add_vote(store, store.run(team[0]).experiment, team, "frozen")
            ids += team
    return [store.run(run_id) for run_id in ids]


def _accuracy(run: Run, stage: str) -> float:
    labels = next(split.labels for split in run.dataset.splits if split.name == "test")
    record = run.stage(stage)
    assert record is not None
    return float((record.predictions["test"].logits.argmax(axis=1) == labels).mean())


def test_options_that_differ_are_choices(store: Store) -> None:
    runs = _four_readings(store)
    assert [choice.name for choice in choices(runs)] == ["frozen.epochs", "finetune.epochs"]
    assert choices(runs)[0].values[runs[-1].id] == "4"
    assert choices(runs[:2]) == ()
    alike = [runs[0], runs[-1]]  # where both differ at once, they are one choice
    assert [choice.name for choice in choices(alike)] == ["frozen.epochs, finetune.epochs"]


def test_conclusions_are_those_of_the_stored_predictions(store: Store) -> None:
    runs = _four_readings(store)
    found = specification(runs, store.ensembles())
    assert found is not None
    assert found.readings == 4
    by_title = {conclusion.title: conclusion for conclusion in found.conclusions}
    assert list(by_title) == [
        "alexnet: finetune less frozen",
        "resnet18: finetune less frozen",
        "majority_vote of 2 less its best member, frozen",
        "resnet18 less alexnet, frozen",
    ]
    change = by_title["resnet18: finetune less frozen"]
    expected = sorted(
        _accuracy(run, "finetune") - _accuracy(run, "frozen") for run in runs if run.backbone == "resnet18"
    )
    assert [reading.effect.value for reading in change.readings] == pytest.approx(expected)
    assert "Below zero in 4 of 4 readings" in change.summary
    lead = by_title["resnet18 less alexnet, frozen"]
    expected = sorted(
        _accuracy(other, "frozen") - _accuracy(one, "frozen") for one, other in zip(runs[::2], runs[1::2], strict=True)
    )
    assert [reading.effect.value for reading in lead.readings] == pytest.approx(expected)
    assert "above in 4, 4 beyond chance" in lead.summary
    gain = by_title["majority_vote of 2 less its best member, frozen"]
    votes = [record.correct / record.images for record in store.ensembles()]
    best = [max(_accuracy(run, "frozen") for run in pair) for pair in zip(runs[::2], runs[1::2], strict=True)]
    assert [reading.effect.value for reading in gain.readings] == pytest.approx(sorted(np.subtract(votes, best)))


def test_means_of_a_choice_are_over_its_readings(store: Store) -> None:
    runs = _four_readings(store)
    found = specification(runs, [])
    assert found is not None
    change = next(one for one in found.conclusions if one.title == "alexnet: finetune less frozen")
    mean = next(one for one in change.means if (one.choice, one.value) == ("finetune.epochs", "2"))
    chosen = [run for run in runs if run.backbone == "alexnet" and run.config["schedule"]["stages"][1]["epochs"] == 2]
    assert mean.readings == 2
    assert mean.mean == pytest.approx(
        np.mean([_accuracy(run, "finetune") - _accuracy(run, "frozen") for run in chosen])
    )


def test_seeds_of_a_reading_count_as_their_mean(store: Store) -> None:
    runs = _four_readings(store)
    again = add_run(store, "readings", "alexnet", data=dataset(), frozen=3, finetune=1, seed=5, accuracies=(0.9, 0.7))
    found = specification([*runs, store.run(again)], [])
    assert found is not None
    change = next(one for one in found.conclusions if one.title == "alexnet: finetune less frozen")
    (doubled,) = [reading for reading in change.readings if reading.seeds == 2]
    both = [runs[0], store.run(again)]
    expected = np.mean([_accuracy(run, "finetune") - _accuracy(run, "frozen") for run in both])
    assert doubled.effect.value == pytest.approx(expected)


def test_few_readings_or_other_images_make_no_curve(store: Store) -> None:
    runs = _four_readings(store)
    assert specification(runs[:4], []) is None
    other = add_run(store, "readings", "alexnet", data=dataset(tag="b"), frozen=9, finetune=9)
    assert specification([*runs, store.run(other)], []) is None


def test_the_page_shows_it(store: Store, tmp_path: Path) -> None:
    _four_readings(store, 'readings & <b>"more"</b>')
    page = render_report(store, tmp_path / "pages").read_text(encoding="utf-8")
    assert "what holds under 4 readings" in page
    assert page.count('<figure class="wide"><svg role="img"') == 4
    assert "<b>&#34;more" not in page.replace("&lt;b&gt;", "")
    assert 'readings & <b>"more"' not in page
