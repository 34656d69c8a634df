"""What options are made of, and the kinds of plugin."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["Kind", "Options"]

Kind = Literal["backbone", "family", "schedule", "rate", "optimizer", "loss", "ensemble", "dataset"]


class Options(BaseModel):
    """Base of everything that ``--set`` and a recipe can change: frozen, and closed to unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)
