"""Published tables, such as ``table1.toml``: their figures and claims, and how a run's protocol differs from theirs."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.errors import ConfigError, did_you_mean
from harness.report.parts import badge
from harness.report.text import flatten, show
from harness.results import Run

__all__ = [
    "Claim",
    "Deviation",
    "Pair",
    "Paper",
    "PaperFigure",
    "deviations",
    "load_paper",
    "options",
    "read_table",
    "shipped_tables",
]

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class PaperFigure:
    """A published test accuracy, as a share, with the images right that it amounts to where that is known.

    ``margin`` is how far off a mean over seeds may be and still be as good as equal.
    """

    accuracy: float
    correct: int | None
    margin: float


@dataclass(frozen=True)
class Pair:
    """Two cells, ``NAME.STAGE`` each, of which the first is said to be above the second."""

    greater: str
    than: str


@dataclass(frozen=True)
class Claim:
    """Something that the paper says, in words, and as pairs that must all be so."""

    text: str
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class Paper:
    """Published figures by name and stage. ``protocol`` has the keys of ``--set``, ``images`` the sizes of splits.

    ``tolerated`` are deviations, as ``KEY=VALUE``, with which a run counts all the same. ``command`` runs it all.
    """

    title: str
    authors: str
    source: str
    stages: Mapping[str, str]
    backbones: Mapping[str, Mapping[str, PaperFigure]]
    ensembles: Mapping[str, Mapping[str, PaperFigure]]
    members: Mapping[str, tuple[str, ...]]
    protocol: Mapping[str, Any]
    images: Mapping[str, int]
    tolerated: tuple[str, ...]
    command: str
    claims: tuple[Claim, ...]

    def concerns(self, run: Run) -> bool:
        """True where the run is of one of the paper's networks, or on its images."""
        return run.backbone in self.backbones or run.dataset.name == self.protocol["dataset"]

    @property
    def cells(self) -> dict[str, PaperFigure]:
        """Every published figure, under ``NAME.STAGE``."""
        return {
            f"{name}.{stage}": figure
            for name, figures in [*self.backbones.items(), *self.ensembles.items()]
            for stage, figure in figures.items()
        }

    @property
    def points(self) -> tuple[str, ...]:
        """What a run may deviate in: see :class:`Deviation`."""
        return (
            *dict.fromkeys(["weights", *self.stages, *self.protocol, *(f"{split} images" for split in self.images)]),
        )

    def check_point(self, text: str) -> str:
        """Return ``KEY=VALUE`` if runs can deviate so, or say what is wrong with it.

        Raises:
            ConfigError: there is no value, or no such key.
        """
        key, equals, value = text.partition("=")
        if not equals or not value or key not in self.points:
            near = did_you_mean(key, self.points)
            raise ConfigError(f"{text!r} should be KEY=VALUE, as in weights=random, of what the table states. {near}")
        return text


@dataclass(frozen=True)
class Deviation:
    """One point in which runs differ from the paper. ``runs`` is empty where it is true of all of them."""

    what: str
    ours: str
    paper: str
    runs: tuple[int, ...]


# --- a table's file --------------------------------------------------------------------------------------------------

_Words = Annotated[str, Field(min_length=1)]
_Share = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Figure(_Strict):
    accuracy: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
    correct: Annotated[int, Field(ge=0)] | None = None
    margin: _Share | None = None


class _Backbone(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    __pydantic_extra__: dict[str, _Figure] = Field(init=False)  # by stage
    name: _Words


class _Ensemble(_Backbone):
    members: Annotated[list[_Words], Field(min_length=2)]


class _Pair(_Strict):
    greater: str
    than: str


class _Claim(_Strict):
    text: _Words
    pairs: Annotated[list[_Pair], Field(min_length=1)]


class _Table(_Strict):
    title: _Words
    authors: _Words
    source: _Words
    command: _Words
    margin: _Share | None = None
    stages: Annotated[dict[str, str], Field(min_length=1)]
    backbones: list[_Backbone] = []
    ensembles: list[_Ensemble] = []
    protocol: dict[str, Any]
    images: dict[str, Annotated[int, Field(gt=0)]] = {}
    tolerated: list[str] = []
    claims: list[_Claim] = []


def shipped_tables() -> dict[str, Path]:
    """Return the published tables that come with harness, by name."""
    return {path.stem: path for path in sorted(_HERE.glob("*.toml"))}


@cache
def load_paper() -> Paper:
    """Read the published figures that a report sets beside its own."""
    return read_table("table1")


def read_table(table: str) -> Paper:
    """Read a published table: one that comes with harness, by its name, or a TOML file of the same form, by its path.

    Raises:
        ConfigError: there is none, or it cannot be used; the message names the file, the key, and what was found.
    """
    shipped = shipped_tables()
    path = shipped.get(table, Path(table))
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError) as error:
        near = did_you_mean(table, shipped)
        raise ConfigError(f"no published table is called {table!r}, and there is no such file. {near}") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ValueError) as error:
        raise ConfigError(f"the published table {table} cannot be read: {error}") from error
    try:
        return _to_paper(table, _Table.model_validate(content))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
        if first["type"] == "missing":
            _refuse(table, key, None, "it is missing; every published table needs it")
        if first["type"] == "extra_forbidden":
            _refuse(table, key, first["input"], "there is no such key; see table1.toml for those that there are")
        _refuse(table, key, first["input"], first["msg"][:1].lower() + first["msg"][1:])


def _refuse(table: str, key: str, found: object, problem: str) -> NoReturn:
    said = repr(found) if not isinstance(found, str) else f'"{found}"'
    value = "" if found is None else f" = {said if len(said) <= 80 else said[:80] + '...'}"
    raise ConfigError(f"the published table {table}: {key}{value}: {problem}")


def _to_paper(table: str, given: _Table) -> Paper:
    """Check what concerns several keys."""
    if not isinstance(given.protocol.get("dataset"), str):
        _refuse(table, "protocol.dataset", given.protocol.get("dataset"), "name the data set that the figures are of")
    names: set[str] = set()
    figures: dict[str, dict[str, dict[str, PaperFigure]]] = {}
    for kind, entries in (("backbones", given.backbones), ("ensembles", given.ensembles)):
        figures[kind] = {}
        for number, entry in enumerate(entries, 1):
            if entry.name in names:
                _refuse(table, f"{kind}[{number}].name", entry.name, "that name is taken; give each row its own")
            names.add(entry.name)
            figures[kind][entry.name] = dict(_figures(table, f"{kind}[{number}]", entry, given))
    for number, one in enumerate(given.ensembles, 1):
        if len(set(one.members)) < len(one.members):
            _refuse(table, f"ensembles[{number}].members", one.members, "name each member once")
    paper = Paper(
        title=given.title,
        authors=given.authors,
        source=given.source,
        stages=given.stages,
        backbones=figures["backbones"],
        ensembles=figures["ensembles"],
        members={one.name: tuple(one.members) for one in given.ensembles},
        protocol=flatten(given.protocol),
        images=given.images,
        tolerated=tuple(given.tolerated),
        command=given.command,
        claims=tuple(
            Claim(one.text, tuple(Pair(pair.greater, pair.than) for pair in one.pairs)) for one in given.claims
        ),
    )
    if not paper.cells:
        _refuse(table, "backbones", None, "there is no figure in it; add [[backbones]] with a name and an accuracy")
    for number, text in enumerate(paper.tolerated, 1):
        try:
            paper.check_point(text)
        except ConfigError as error:
            _refuse(table, f"tolerated[{number}]", None, str(error))
    for number, claim in enumerate(paper.claims, 1):
        for position, pair in enumerate(claim.pairs, 1):
            _check_pair(table, f"claims[{number}].pairs[{position}]", pair, paper.cells)
    return paper


def _figures(table: str, key: str, entry: _Backbone, given: _Table) -> Iterator[tuple[str, PaperFigure]]:
    for stage, figure in entry.__pydantic_extra__.items():
        if stage not in given.stages:
            near = did_you_mean(stage, given.stages)
            _refuse(table, f"{key}.{stage}", None, f"[stages] names no such stage. {near}")
        margin = given.margin if figure.margin is None else figure.margin
        if margin is None:
            said = "it is missing; say for the table or the figure what is as good as equal, for example margin = 0.026"
            _refuse(table, f"{key}.{stage}.margin", None, said)
        images = given.images.get("test")
        if figure.correct is not None and images and abs(figure.correct / images - figure.accuracy) > 0.5 / images:
            of = f"{figure.correct} of {images} images are {figure.correct / images:.4f}; mend one of the two"
            _refuse(table, f"{key}.{stage}.accuracy", figure.accuracy, of)
        yield stage, PaperFigure(figure.accuracy, figure.correct, margin)


def _check_pair(table: str, key: str, pair: Pair, cells: Mapping[str, PaperFigure]) -> None:
    for side, cell in (("greater", pair.greater), ("than", pair.than)):
        if cell not in cells:
            _refuse(table, f"{key}.{side}", cell, f"no figure of the table is NAME.STAGE. {did_you_mean(cell, cells)}")
    above, below = cells[pair.greater].accuracy, cells[pair.than].accuracy
    if not above > below:
        said = f"the table itself has {above:g} there, which is not above {below:g} of {pair.than}; swap them"
        _refuse(table, f"{key}.greater", pair.greater, said)


# --- a run beside it -------------------------------------------------------------------------------------------------


def options(run: Run) -> dict[str, str]:
    """A run's resolved options under the keys of ``--set``, in the order of the configuration."""
    config = {key: value for key, value in run.config.items() if key != "schedule"}
    schedule = dict(run.config.get("schedule", {}))
    config |= {"transform": schedule.get("transform", {})}
    config |= {stage["name"]: {k: v for k, v in stage.items() if k != "name"} for stage in schedule.get("stages", ())}
    return {key: show(value) for key, value in flatten(config).items()}


def deviations(paper: Paper, runs: Sequence[Run]) -> tuple[Deviation, ...]:
    """List what differs from the paper's protocol, each point once with the runs that it is true of."""
    found: dict[tuple[str, str, str], list[int]] = {}
    for run in runs:
        for point in _deviations(paper, run):
            found.setdefault(point, []).append(run.id)
    return tuple(
        Deviation(*point, runs=() if len(ids) == len(runs) else tuple(ids)) for point, ids in sorted(found.items())
    )


def _deviations(paper: Paper, run: Run) -> list[tuple[str, str, str]]:
    ours = options(run)
    points = []
    if run.dataset.synthetic and run.dataset.name != paper.protocol["dataset"]:
        points.append(("images", "synthetic", "radiographs"))
    trained = {stage["name"] for stage in run.config.get("schedule", {}).get("stages", ())}
    points += [(stage, "left out", "trained") for stage in paper.stages if stage not in trained]
    if "weights" not in paper.protocol and badge(run).kind == "random":
        points.append(("weights", "random", "not random"))
    left_out = tuple(f"{stage}." for stage in paper.stages if stage not in trained)
    points += [
        (key, ours.get(key, "not set"), show(value))
        for key, value in paper.protocol.items()
        if ours.get(key) != show(value) and not key.startswith(left_out)
    ]
    sizes = {split: sum(counts.values()) for split, counts in run.dataset.counts.items()}
    points += [
        (f"{split} images", f"{sizes[split]:,}", f"{size:,}")
        for split, size in paper.images.items()
        if split in sizes and sizes[split] != size
    ]
    return points
