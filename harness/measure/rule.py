"""When sampling stops. Imports nothing heavy: the command line makes such rules."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Rule"]


@dataclass(frozen=True)
class Rule:
    """When sampling stops.

    Args:
        error: half the width of the median's 95 % interval, as a share of the median, that is small enough.
        longest: seconds after which no more samples are begun, but for the least number.
        least: samples that are taken however long they take.
        warm_up: seconds after which warming up ends, stable or not.
    """

    error: float = 0.01
    longest: float = 10.0
    least: int = 3
    warm_up: float = 5.0
