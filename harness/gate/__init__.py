"""The gate: base and head to verdicts, at a stated rate of false alarms. No printing, and no torch in this process."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.analysis.gate import Decision, Estimate, Verdict, decide
from harness.errors import ConfigError

__all__ = ["Gated", "Rules", "Thresholds", "decide_in_looks", "looks", "make_thresholds", "overall"]

FIRST_LOOK = 3  # rounds
_Tolerated = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]
_R = TypeVar("_R")


class Thresholds(BaseModel):
    """Changes that are tolerated, in per cent, by patterns of benchmarks' names; the first that matches holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    default: _Tolerated = 5.0
    benchmarks: dict[str, _Tolerated] = Field(default_factory=dict)

    def of(self, name: str) -> float:
        """Return what is tolerated of a benchmark, as a share."""
        found = (value for pattern, value in self.benchmarks.items() if _matches(name, pattern))
        return next(found, self.default) / 100

    def unused(self, names: Sequence[str]) -> list[str]:
        """Return the patterns that match none of the names."""
        return [pattern for pattern in self.benchmarks if not any(_matches(name, pattern) for name in names)]


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)  # a name may hold [brackets], as pytest's do


def make_thresholds(default: float, path: Path | None = None) -> Thresholds:
    """Take ``default``, or read a TOML file: ``default``, and a table ``benchmarks`` of patterns.

    Raises:
        ConfigError: the threshold or the file cannot be used.
    """
    said = "--threshold" if path is None else f"--thresholds {path}"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8")) if path is not None else {}
        return Thresholds.model_validate({"default": default, **content})
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{said} cannot be read: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{said}: {key} = {first['input']!r}: {first['msg'].lower()}") from error


@dataclass(frozen=True)
class Rules:
    """How a gate decides.

    Args:
        thresholds: what is tolerated.
        false_alarms: how often at most the whole gate fails although nothing is beyond its threshold.
        rounds: at most.
        silence: seconds without an answer after which a process counts as hung.
        stopping: tells whether somebody wants to stop.
    """

    thresholds: Thresholds
    false_alarms: float = 0.01
    rounds: int = 24
    silence: float = 600.0
    stopping: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class Gated:
    """One benchmark's verdict.

    ``base`` and ``head`` are seconds, or accuracies. ``decision`` is None, and ``message`` says why, where it could not
    be measured.
    """

    name: str
    threshold: float
    verdict: Verdict
    rounds: int = 0
    base: float | None = None
    head: float | None = None
    decision: Decision | None = None
    message: str = ""


def overall(found: Sequence[Gated]) -> Verdict:
    """Return the worst verdict."""
    verdicts = {one.verdict for one in found}
    return "fail" if "fail" in verdicts else "ambiguous" if "ambiguous" in verdicts else "pass"


def looks(rounds: int) -> list[int]:
    """Return after how many rounds there may be a verdict: 3, 6, 12 and so on, and at last after all."""
    found = []
    look = FIRST_LOOK
    while look < rounds:
        found.append(look)
        look *= 2
    return [*found, rounds]


def decide_in_looks(
    measure: Callable[[int, int], _R],
    estimate: Callable[[Sequence[_R]], Estimate],
    threshold: float,
    rules: Rules,
    benchmarks: int,
) -> tuple[Decision, list[_R]]:
    """Measure rounds until there is a verdict, or none is left. The rate of false alarms is shared (Bonferroni).

    Args:
        measure: measures a round; told how many there are, and how many there will be at the next look.
        estimate: what rounds say.
        threshold: the slowdown that is tolerated, as a share.
        rules: how to decide.
        benchmarks: in the whole gate.

    Returns:
        The last decision, and the rounds that it rests on.
    """
    at = looks(rules.rounds)
    rounds: list[_R] = []
    for look in at:
        while len(rounds) < look:
            rounds.append(measure(len(rounds), look))
        decision = decide(estimate(rounds), threshold, rules.false_alarms / len(at) / benchmarks)
        if decision.verdict != "ambiguous":
            break
    return decision, rounds
