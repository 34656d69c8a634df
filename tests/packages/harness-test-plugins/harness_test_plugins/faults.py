"""Backbones that load, and fail later."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

from harness.api import Combined, Ensemble
from harness_test_plugins.good import Tiny

if TYPE_CHECKING:
    from torch import Tensor, nn

NOT_A_BACKBONE = {"name": "not a backbone"}


class WrongHead(Tiny):
    """Names a head that is not there."""

    head = "fc"


class Raises(Tiny):
    """Raises in the forward pass."""

    def logits(self, output: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Raise."""
        raise RuntimeError("cannot <script>compute</script> [bold]this[/bold]")


class Exits(Tiny):
    """Calls sys.exit where it should build a network, as if all were well."""

    def architecture(self, *, auxiliary: bool) -> nn.Module:
        """Exit."""
        raise SystemExit(0)


class Segfaults(Tiny):
    """Dies of a signal."""

    def architecture(self, *, auxiliary: bool) -> nn.Module:
        """Die."""
        os.kill(os.getpid(), signal.SIGSEGV)
        raise AssertionError


class RaisesEnsemble(Ensemble):
    """Cannot combine anything."""

    def combine(self, probabilities: Any) -> Combined:
        """Raise."""
        raise ValueError("no quorum")


class Diverges(Tiny):
    """Its logits are no numbers."""

    def logits(self, output: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Multiply by NaN."""
        return output * float("nan"), ()
