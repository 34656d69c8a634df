"""Recipes that come with harness, as TOML files beside this one, and the variations that a recipe asks for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from harness.config import Override, settings
from harness.errors import ConfigError, did_you_mean

__all__ = ["recipe_path", "shipped", "variations"]

Axes = Mapping[str, Sequence[Mapping[str, Any]]]
MOST = 10_000  # variations of one recipe


def shipped() -> dict[str, Path]:
    """Return the recipes that come with harness, by name."""
    return {path.stem: path for path in sorted(Path(__file__).parent.glob("*.toml"))}


def recipe_path(recipe: str) -> Path:
    """Return the file of a recipe, given as a path or as a name of those that come with harness.

    Raises:
        ConfigError: there is neither.
    """
    path, known = Path(recipe), shipped()
    if path.suffix == ".toml" or path.is_file():
        return path
    if recipe not in known:
        raise ConfigError(f"--recipe {recipe}: no file of that name ends in .toml. {did_you_mean(recipe, known)}")
    return known[recipe]


def variations(axes: Axes, origin: str, most: int | None = None) -> list[list[Override]]:
    """Combine each value of each axis with each of the others; that of all first values comes first.

    Args:
        axes: as of :class:`harness.config.Recipe`.
        origin: where they were said.
        most: take so many of them, a power of two: see :func:`_fraction`. All that there are, where these are no more.

    Raises:
        ConfigError: a setting has no dot, or there are too many combinations, or too few were asked for.
    """
    choices = [[settings(value, origin) for value in values] for values in axes.values()]
    sizes = [len(values) for values in choices]
    number = math.prod(sizes)
    whole = most is None or most >= number
    if min(number, most or number) > MOST:
        raise ConfigError(f"{origin}: its axes have {number:,} combinations, and one command takes {MOST:,}")
    places = product(*map(range, sizes)) if whole else iter(_fraction(sizes, most or number, origin))
    return [[one for values, place in zip(choices, row, strict=True) for one in values[place]] for row in places]


def _fraction(sizes: Sequence[int], rows: int, origin: str) -> list[tuple[int, ...]]:
    """Return a regular fraction of a factorial design (Box and Hunter 1961, Technometrics 3:311).

    In it any two axes are independent: each value of one meets each of the other in their proportions, so that the mean
    effect of a choice is not mixed up with that of another. Columns are those of Hadamard's matrix; those of odd
    parity go first, as their effects are not mixed up with interactions of two of them either. An axis of more than two
    values takes several columns, and its first values are the more frequent ones.
    """
    from scipy.linalg import hadamard

    if rows < 2 or rows & (rows - 1):
        raise ConfigError(f"--readings {rows}: of more readings, a fraction has 2, 4, 8, 16, ... of them")
    bits = (hadamard(rows) < 0).astype(int)
    free = sorted(range(1, rows), key=lambda column: (column.bit_count() % 2 == 0, column.bit_count(), column))
    columns: dict[int, list[int]] = {}
    for axis in sorted(range(len(sizes)), key=lambda axis: -sizes[axis]):
        taken: list[int] = []
        spanned = {0}
        while 2 ** len(taken) < sizes[axis]:
            new = next((one for one in free if all(one ^ other in free for other in spanned)), None)
            if new is None:
                raise ConfigError(
                    f"--readings {rows}: too few for the {len(sizes)} choices of {origin}; say {2 * rows} or more"
                )
            taken.append(new)
            spanned |= {new ^ other for other in spanned}
            free = [one for one in free if one not in spanned]
        columns[axis] = taken
    places = [
        tuple(
            sum(int(row[column]) << place for place, column in enumerate(columns[axis]))
            * size
            // 2 ** len(columns[axis])
            for axis, size in enumerate(sizes)
        )
        for row in bits
    ]
    return list(dict.fromkeys(places))
