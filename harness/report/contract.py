"""Stored runs held against a published table: which of them count, and what they make of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from harness.analysis.contract import Difference, difference, judge
from harness.analysis.reproduction import Mean, Verdict, equivalence, mean_and_deviation
from harness.errors import ConfigError
from harness.report.paper import Claim, Deviation, Pair, Paper, PaperFigure, deviations, options
from harness.report.parts import badge
from harness.report.text import count
from harness.results import EnsembleRecord, Run

__all__ = ["CheckedCell", "CheckedClaim", "CheckedPair", "Contract", "check_contract"]

# What may differ between runs that stand for the same figure, or for two that are compared.
_FREE = {"backbone", "seed", "device", "deterministic", "weights"}


@dataclass(frozen=True)
class CheckedCell:
    """A published figure and ours.

    ``right`` is images right by seed, out of ``images``. ``interval`` is the 90 % one of the mean, on which the verdict
    rests; it and ``mean`` are None where there is nothing to compute them from, and ``note`` says why.
    """

    name: str
    stage: str
    published: PaperFigure
    right: Mapping[int, int]
    images: int
    mean: Mean | None
    interval: tuple[float, float] | None
    verdict: Verdict
    note: str


@dataclass(frozen=True)
class CheckedPair:
    """Two cells of a claim: the published difference, and ours over the seeds that have both."""

    pair: Pair
    published: float
    ours: Difference


@dataclass(frozen=True)
class CheckedClaim:
    """A claim's verdict, and why it is undecided where seeds are missing. p are adjusted; see `analysis.contract`."""

    claim: Claim
    pairs: tuple[CheckedPair, ...]
    verdict: Verdict
    holds: float | None
    refuted: float | None
    note: str


@dataclass(frozen=True)
class Contract:
    """What stored runs make of a published table.

    Args:
        paper: the table.
        cells: in its order.
        claims: in its order.
        runs: numbers of those that count.
        random: of these, those that began from random weights.
        but_for: deviations of runs that count all the same, because they are tolerated or were allowed.
        left_out: deviations that keep runs from counting.
        repeated: runs in whose place a newer one of the same recipe and seed counts.
        incomplete: runs that have not completed, and so do not count.
    """

    paper: Paper
    cells: tuple[CheckedCell, ...]
    claims: tuple[CheckedClaim, ...]
    runs: tuple[int, ...]
    random: tuple[int, ...]
    but_for: tuple[Deviation, ...]
    left_out: tuple[Deviation, ...]
    repeated: tuple[int, ...]
    incomplete: tuple[int, ...]

    def count(self, verdict: Verdict) -> int:
        """Count the figures and claims of that verdict."""
        return [one.verdict for one in self.cells].count(verdict) + [one.verdict for one in self.claims].count(verdict)

    def cell(self, name: str, stage: str) -> CheckedCell | None:
        """Return what became of a figure, if the table has it."""
        return next((cell for cell in self.cells if (cell.name, cell.stage) == (name, stage)), None)

    @property
    def concerns(self) -> bool:
        """True where there is any run of the table's networks on its data set."""
        return bool(self.runs or self.left_out or self.incomplete)

    @property
    def missing(self) -> tuple[str, ...]:
        """Figures that no run has, ``NAME.STAGE`` each."""
        return tuple(f"{cell.name}.{cell.stage}" for cell in self.cells if not cell.right)

    @property
    def summary(self) -> str:
        """The answer in one sentence."""
        cells = _counts("figure", [one.verdict for one in self.cells])
        claims = _counts("claim", [one.verdict for one in self.claims])
        text = "; ".join(filter(None, (cells, claims)))
        seeds = sorted({len(cell.right) for cell in self.cells})
        ran = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
        many = "seed" if seeds[-1] == 1 else "seeds"
        return f"{text[:1].upper()}{text[1:]}, from {ran} {many} a figure."


def check_contract(
    paper: Paper, runs: Sequence[Run], ensembles: Sequence[EnsembleRecord], allowed: Sequence[str] = ()
) -> Contract:
    """Hold stored runs against a published table.

    What counts are completed runs of the table's networks, on its data set, that follow its protocol but for what it
    tolerates and what is ``allowed``; of several with the same seed the newest. Ensembles count where they are
    stored, of the very runs that count, of one seed.

    Args:
        paper: the table.
        runs: any runs, with their stages; epochs and predictions are not read.
        ensembles: any ensembles.
        allowed: deviations as ``KEY=VALUE``, such as ``weights=random``.

    Raises:
        ConfigError: runs that count used different images, or different recipes, so that no figure would be theirs
            all; or ``allowed`` holds something that is no deviation.
    """
    allow = {_plain(*text.partition("=")[::2]) for text in (*paper.tolerated, *map(paper.check_point, allowed))}
    concerned = {*paper.backbones, *(member for members in paper.members.values() for member in members)}
    found = [
        run
        for run in sorted(runs, key=lambda run: run.id)
        if run.backbone in concerned and run.dataset.name == paper.protocol["dataset"]
    ]
    completed = [run for run in found if run.status == "completed"]
    differs = {run.id: {_plain(one.what, one.ours) for one in deviations(paper, [run])} for run in completed}
    counted = [run for run in completed if differs[run.id] <= allow]
    others = [run for run in completed if not differs[run.id] <= allow]
    _refuse_mixed(counted)
    newest = {(run.backbone, run.seed): run for run in sorted(counted, key=lambda run: run.created_at)}
    ids = {run.id for run in newest.values()}
    chosen = [run for run in counted if run.id in ids]
    images, right = _right(paper, newest, ensembles)
    cells = tuple(
        _cell(name, stage, figure, right[name, stage], images)
        for name, figures in [*paper.backbones.items(), *paper.ensembles.items()]
        for stage, figure in figures.items()
    )
    return Contract(
        paper=paper,
        cells=cells,
        claims=_claims(paper, {f"{name}.{stage}": seeds for (name, stage), seeds in right.items()}, images),
        runs=tuple(run.id for run in chosen),
        random=tuple(run.id for run in chosen if badge(run).kind == "random"),
        but_for=_deviations(paper, chosen),
        left_out=tuple(one for one in _deviations(paper, others) if _plain(one.what, one.ours) not in allow),
        repeated=tuple(run.id for run in counted if run.id not in ids),
        incomplete=tuple(run.id for run in found if run.status != "completed"),
    )


def _counts(name: str, verdicts: Sequence[Verdict]) -> str:
    """Count verdicts in words; empty where there are none."""
    told = [f"{verdicts.count(verdict)} {verdict}" for verdict in get_args(Verdict) if verdict in verdicts]
    return f"of {len(verdicts)} {name}{'s' * (len(verdicts) > 1)} {', '.join(told)}" if told else ""


def _deviations(paper: Paper, runs: Sequence[Run]) -> tuple[Deviation, ...]:
    """Name the runs of every deviation, also where it is of all."""
    everyone = tuple(run.id for run in runs)
    return tuple(replace(one, runs=one.runs or everyone) for one in deviations(paper, runs))


def _plain(key: str, value: str) -> tuple[str, str]:
    """A deviation in a form that 4,908 and 4908 share."""
    return key, value.replace(",", "")


def _refuse_mixed(runs: Sequence[Run]) -> None:
    """Let pass runs that differ in network, weights of different networks, and seed alone."""
    seen: dict[str, dict[str, list[int]]] = {}
    for run in runs:
        ours = options(run)
        settings = {
            "the images": f"{run.dataset.name} {run.dataset.fingerprint[:8]}",
            f"weights of {run.backbone}": ours.get("weights", ""),
        } | {key: value for key, value in ours.items() if key not in _FREE}
        for key, value in settings.items():
            seen.setdefault(key, {}).setdefault(value, []).append(run.id)
    for key, values in seen.items():
        if len(values) > 1:
            listed = "; ".join(f"{value} (run{'s' * (len(ids) > 1)} {_listed(ids)})" for value, ids in values.items())
            most = max(values.values(), key=lambda ids: len(ids))
            raise ConfigError(
                f"the runs that would count differ in {key}: {listed}. Say which of them count, by --experiment NAME "
                f"or by --where, for example --where 'id in ({', '.join(map(str, most))})'"
            )


def _listed(ids: Sequence[int]) -> str:
    return ", ".join(map(str, ids[:8])) + (", ..." if len(ids) > 8 else "")


def _right(
    paper: Paper, runs: Mapping[tuple[str, int], Run], ensembles: Sequence[EnsembleRecord]
) -> tuple[int, dict[tuple[str, str], dict[int, int]]]:
    """Return how many test images there are, and of each figure the images right by seed."""
    images = 0
    found: dict[tuple[str, str], dict[int, int]] = {}
    for name, figures in paper.backbones.items():
        for stage in figures:
            of_seed = found.setdefault((name, stage), {})
            for (backbone, seed), run in sorted(runs.items()):
                tested = run.stage(stage) if backbone == name else None
                if tested is not None and tested.test_correct is not None and tested.test_images:
                    of_seed[seed], images = tested.test_correct, tested.test_images
    stored = {
        (one.method, frozenset((member.run_id, member.stage) for member in one.members)): one
        for one in ensembles
        if one.split == "test"
    }
    for name, figures in paper.ensembles.items():
        for stage in figures:
            of_seed = found.setdefault((name, stage), {})
            for seed in sorted({seed for _, seed in runs}):
                team = [runs.get((member, seed)) for member in paper.members[name]]
                voted = stored.get((name, frozenset((run.id, stage) for run in team if run is not None)))
                if voted is not None and None not in team:
                    of_seed[seed], images = voted.correct, voted.images
    return images, found


def _cell(name: str, stage: str, published: PaperFigure, right: Mapping[int, int], images: int) -> CheckedCell:
    if not right:
        return CheckedCell(name, stage, published, right, images, None, None, "undecided", "no run")
    samples = [value / images for value in right.values()]
    found = equivalence(samples, published.accuracy, published.margin)
    return CheckedCell(
        name,
        stage,
        published,
        right,
        images,
        mean_and_deviation(samples),
        found.interval,
        found.verdict,
        _note(samples),
    )


def _claims(paper: Paper, right: Mapping[str, Mapping[int, int]], images: int) -> tuple[CheckedClaim, ...]:
    cells = paper.cells
    pairs = [
        tuple(
            CheckedPair(
                pair,
                cells[pair.greater].accuracy - cells[pair.than].accuracy,
                difference(right[pair.greater], right[pair.than], images),
            )
            for pair in claim.pairs
        )
        for claim in paper.claims
    ]
    judged = judge([[one.ours for one in several] for several in pairs])
    claims = []
    for claim, several, found in zip(paper.claims, pairs, judged, strict=True):
        untested = [one.ours for one in several if one.ours.above is None]
        fewest = min(untested, key=lambda one: one.n, default=None)
        note = ""
        if found.verdict == "undecided" and fewest is not None:
            note = _seeds(fewest.n) if fewest.n else "no run"
        claims.append(CheckedClaim(claim, several, found.verdict, found.holds, found.refuted, note))
    return tuple(claims)


def _note(samples: Sequence[float]) -> str:
    return _seeds(len(samples)) if len(set(samples)) == 1 else ""


def _seeds(n: int) -> str:
    """Why ``n`` seeds without spread decide nothing."""
    if n == 1:
        return "1 seed; at least 2, better 5"
    return f"{count(n)} seeds that gave the very same"
