"""From an open store to a folder of static pages. What is written depends on the database alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from harness.analysis.roofs import SUITE
from harness.errors import ConfigError, StoreError, did_you_mean
from harness.report import charts, text
from harness.report.leaderboard import LEADERS, leaderboard_view
from harness.report.views import ExperimentView, Figure, Scatter, experiment_view, run_view
from harness.results import Experiment, MeasurementSet, Run, Selection

if TYPE_CHECKING:
    from harness.store import Store

__all__ = ["MARKER", "render_report"]

MARKER = ".harness-report"
_HERE = Path(__file__).parent


def render_report(
    store: Store,
    out: Path,
    *,
    experiment: str | None = None,
    everything: bool = False,
    watch: Callable[[int, int], None] = lambda _done, _total: None,
) -> Path:
    """Write a report: the front page for one experiment, a page for each of its runs, and the leaderboard of all runs.

    Args:
        store: an open results database.
        out: folder to write into; new, empty, or an earlier report, whose pages are replaced.
        experiment: the experiment of the front page; by default the newest that has runs.
        everything: write the pages of the other experiments too. Without it nothing else of theirs is read.
        watch: told how many runs of how many have their page.

    Returns:
        Path of the front page.

    Raises:
        StoreError: there is nothing to report, or no such experiment.
        ConfigError: ``out`` cannot be written to, or holds something else.
    """
    found = _experiments(store, experiment)
    try:
        _check(out)
        return _write_all(store, out, found if everything else found[:1], len(found) - 1, watch)
    except OSError as error:
        raise ConfigError(f"--out {out}: the report cannot be written: {error}") from error


def _experiments(store: Store, wanted: str | None) -> list[Experiment]:
    """Return the experiments that have runs, that of the front page first."""
    known = store.experiments()
    recorded = store.experiments_with_runs()
    found = [experiment for experiment in known if experiment.id in recorded]
    if not found:
        raise StoreError(
            "the results database holds no runs yet: record one with `harness run --plugins NAME` (`harness plugins` "
            "lists the names), then make the report"
        )
    if wanted is None:
        return found
    front = [experiment for experiment in found if experiment.name == wanted]
    if not front:
        problem = "has no runs" if any(experiment.name == wanted for experiment in known) else "is not in the database"
        near = did_you_mean(wanted, [experiment.name for experiment in found][:20])
        raise StoreError(f"--experiment: {wanted!r} {problem}. {near} Without the option, the newest is reported.")
    return front + [experiment for experiment in found if experiment.name != wanted]


def _check(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: this is a file; name a folder")
    if out.is_dir() and not (out / MARKER).is_file() and any(out.iterdir()):
        raise ConfigError(
            f"--out {out}: the folder holds other files, and is no earlier report (it has no {MARKER}); name a new or "
            "empty folder"
        )


def _write_all(
    store: Store, out: Path, experiments: Sequence[Experiment], others: int, watch: Callable[[int, int], None]
) -> Path:
    for folder in (out, out / "runs", out / "experiments"):
        folder.mkdir(parents=True, exist_ok=True)
    _write(out / MARKER, "`harness report` writes this folder, and replaces its pages the next time.\n")
    front = experiments[0]
    home = {other.id: f"experiments/{other.id}.html" for other in experiments} | {front.id: "index.html"}
    run_ids = {one.id: store.run_ids(Selection(experiment=one.name)) for one in experiments}
    planned = set().union(*run_ids.values())
    roofs = store.sets.read(suite=SUITE)
    written: set[Path] = set()
    for experiment in reversed(experiments):  # the front page last: what it links to is there
        runs = [store.run(run_id) for run_id in run_ids[experiment.id]]
        view = experiment_view(experiment, runs, store.ensembles(experiment.name))
        curves = {figure.run.id: _curves(figure, view.accuracy_domain) for figure in view.figures}
        for run in runs:
            path = out / "runs" / f"{run.id}.html"
            _write(path, _run_page(run, home[experiment.id], curves.get(run.id), roofs))
            written.add(path)
            watch(len(written), len(planned))
        if experiment is front:
            leaders = store.runs(Selection(where="accuracy is not null", sort="accuracy", limit=LEADERS))
            board = leaderboard_view(leaders, store.count(), planned, store.decisions([run.id for run in leaders]))
            _write(out / "leaderboard.html", _render("leaderboard.html.j2", view=board))
        path = out / home[experiment.id]
        _write(
            path,
            _render(
                "experiment.html.j2",
                view=view,
                root="" if experiment is front else "../",
                others=[(other, home[other.id]) for other in experiments if other is not experiment],
                left_out=others + 1 - len(experiments),
                curves=curves,
                scatters=_scatters(view),
                specification_charts=_specifications(view),
            ),
        )
    kept = written | {out / page for page in home.values()}
    for stale in [*(out / "runs").glob("[0-9]*.html"), *(out / "experiments").glob("[0-9]*.html")]:
        if stale not in kept:
            stale.unlink()
    return out / "index.html"


def _run_page(run: Run, home: str, curves: tuple[Markup, Markup] | None, roofs: Sequence[MeasurementSet]) -> str:
    view = run_view(run, roofs)
    drawn = [charts.latency_chart(one, view.label, f"run{run.id}-batch{one.batch_size}") for one in view.latencies]
    return _render("run.html.j2", view=view, root="../", home=home, curves=curves, latency_charts=drawn)


def _curves(figure: Figure, domain: tuple[float, float]) -> tuple[Markup, Markup]:
    prefix = f"run{figure.run.id}"
    return (
        charts.accuracy_chart(figure.curves, domain, f"{prefix}-accuracy"),
        charts.loss_chart(figure.curves, f"{prefix}-loss"),
    )


def _scatters(view: ExperimentView) -> list[tuple[Scatter, Markup]]:
    domain = (view.axis.low, view.axis.high)
    return [(one, charts.scatter_chart(one, domain, f"scatter-{one.key}")) for one in view.scatters if one.points]


def _specifications(view: ExperimentView) -> list[Markup]:
    if view.specification is None:
        return []
    choices = view.specification.choices
    return [
        charts.specification_chart(one, choices, f"specification{number}")
        for number, one in enumerate(view.specification.conclusions)
    ]


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "bytes": text.bytes_,
        "count": text.count,
        "difference": text.difference,
        "duration": text.duration,
        "figure": text.figure,
        "found": text.found,
        "interval": text.interval,
        "millis": text.millis,
        "p_value": text.p_value,
        "percent": text.percent,
        "points": text.points,
        "spread": text.spread,
        "when": text.when,
    }
    environment.globals["css"] = Markup((_HERE / "style.css").read_text(encoding="utf-8"))  # noqa: S704
    return environment


def _render(template: str, **context: Any) -> str:
    return _environment().get_template(template).render(context)


def _write(path: Path, content: str) -> None:
    """Replace a file at once, so that a reader sees the old page or the new one."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(content, encoding="utf-8", newline="\n")
    partial.replace(path)
