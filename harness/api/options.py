"""The interface's version, the kinds of plugin, and what options are made of."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["VERSION", "Kind", "Options"]

VERSION = 1  # of this interface: a plugin may say, by an entry point in the group harness.api, which it was built for

Kind = Literal["backbone", "family", "schedule", "rate", "optimizer", "loss", "ensemble", "dataset"]


class Options(BaseModel):
    """Base of everything that ``--set`` and a recipe can change: frozen, and closed to unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)
