"""Numbers as people read them. Every page formats with these and nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from harness.results import Passport

__all__ = [
    "audited",
    "bytes_",
    "count",
    "difference",
    "duration",
    "execution",
    "figure",
    "flatten",
    "found",
    "interval",
    "millis",
    "p_value",
    "percent",
    "points",
    "show",
    "spread",
    "when",
]

_SPACE = "\N{NO-BREAK SPACE}"
_DASH = "\N{EN DASH}"


def percent(share: float, digits: int = 2) -> str:
    """0.8654 becomes ``86.54 %``."""
    return f"{share * 100:.{digits}f}{_SPACE}%" if math.isfinite(share) else "not finite"


def interval(low: float, high: float, digits: int = 1) -> str:
    """Bounds of a share, in percent without the sign: ``83.6–89.0``."""
    return f"{low * 100:.{digits}f}{_DASH}{high * 100:.{digits}f}"


def points(share: float) -> str:
    """A difference of shares in points: -0.0213 becomes ``-2.1``, with a minus sign."""
    return f"{100 * share:+.1f}".replace("-", "\N{MINUS SIGN}")


def difference(value: float) -> str:
    """A signed difference with three decimals: ``+0.012``."""
    return f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")


def spread(deviation: float | None) -> str:
    """A standard deviation of shares after its mean, in points; nothing where there is none."""
    return "" if deviation is None else f" \N{PLUS-MINUS SIGN} {100 * deviation:.2f}"


def found(detectable: float | None) -> str:
    """Say which difference in accuracy a comparison of two would have found."""
    if detectable is None:
        return "They agree on so many images that no difference between two of them would have been found."
    return (
        f"A difference of {100 * detectable:.1f} points between two of them would be found four times in five; smaller "
        "ones are mostly missed."
    )


def figure(value: float, digits: int = 3) -> str:
    """Round to decimals."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "not finite"


def count(value: int) -> str:
    """61100840 becomes ``61,100,840``."""
    return f"{value:,}"


def _significant(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) < 1 else f"{value:#.3g}".rstrip(".")


def millis(seconds: float) -> str:
    """Seconds as milliseconds with three significant digits."""
    return f"{_significant(seconds * 1e3)}{_SPACE}ms" if math.isfinite(seconds) else "not finite"


def bytes_(value: float) -> str:
    """Bytes as MiB or GiB with three significant digits."""
    unit, name = (2**30, "GiB") if value >= 2**30 else (2**20, "MiB")
    return f"{_significant(value / unit)}{_SPACE}{name}"


def duration(seconds: float) -> str:
    """Seconds as ``4.2 s``, ``3 min 05 s`` or ``1 h 02 min``."""
    if seconds < 59.95:
        return f"{seconds:.1f}{_SPACE}s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}{_SPACE}min {whole % 60:02d}{_SPACE}s"
    minutes = round(seconds / 60)
    return f"{minutes // 60}{_SPACE}h {minutes % 60:02d}{_SPACE}min"


def execution(how: Mapping[str, Any]) -> str:
    """Say how a stage was computed, from :attr:`harness.results.StageRecord.execution`."""
    if "features_computed" in how:
        trained = "head was" if how["training"] == "head on features" else "last blocks were"
        said = f"The {trained} trained on features of the frozen layers: {count(how['features_computed'])} computed"
        if how["features_taken"]:
            elsewhere = duration(how["features_taken_seconds"])
            said += f", {count(how['features_taken'])} taken from earlier runs, where they took {elsewhere}"
    else:
        said = f"Every step computed the whole network, because {how['because']}"
    fused = ", BatchNorm inside the convolutions before it" if how["fused"] else ""
    if "not_fused_because" in how:
        fused = f", not in a fast form, because {how['not_fused_because']}"
    if how.get("captured"):
        said += ". Steps were launched as CUDA graphs"
    elif "not_captured_because" in how:
        said += f". Steps were launched kernel by kernel, because {how['not_captured_because']}"
    if how.get("jobs", 1) > 1:
        said += f". Up to {how['jobs'] - 1} other runs trained at the same time, so its speed is not its own"
    images = f"{bytes_(how['images_bytes'])} of images in {how['images']}"
    return f"{said}. Evaluated in batches of {how['batch_size']}{fused}; {images}."


def when(moment: datetime) -> str:
    """A moment in UTC, to the minute."""
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def p_value(p: float) -> str:
    """``p = 0.36``, or ``p < 0.001``."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}" if p < 0.1 else f"p = {p:.2f}"


def show(value: Any) -> str:
    """An option's value as the command line writes it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(show, value))
    return str(value)


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys; lists are values."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            flat |= flatten(item, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = item
    return flat


def audited(passport: Passport | None) -> tuple[str, str]:
    """Return a data set's verdict, and why, in sentences."""
    if passport is None:
        return "not audited", "Whether its splits share patients or files is not known; `harness data audit` finds out."
    return passport.verdict, passport.because
