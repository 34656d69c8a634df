"""Backbones that load, and fail later."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

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


class LosesConnection(Tiny):
    """Raises what the pipe to the parent would raise too."""

    def architecture(self, *, auxiliary: bool) -> nn.Module:
        """Raise."""
        raise ConnectionResetError("the server of the weights hung up")


class ExitsHard(Tiny):
    """Ends its process without a word."""

    def architecture(self, *, auxiliary: bool) -> nn.Module:
        """End."""
        os._exit(7)


class Segfaults(Tiny):
    """Reads where nothing is."""

    def architecture(self, *, auxiliary: bool) -> nn.Module:
        """Crash."""
        ctypes.string_at(0)
        raise AssertionError


class Killed(Tiny):
    """Is killed from outside."""

    def architecture(self, *, auxiliary: bool) -> nn.Module:
        """Be killed."""
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


class Hangs(Tiny):
    """Never comes back."""

    def logits(self, output: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Wait for what does not come."""
        threading.Event().wait()
        raise AssertionError


class EatsMemory(Tiny):
    """Wants more than there is."""

    def logits(self, output: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Eat."""
        eaten = []
        while True:
            eaten.append(bytearray(2**28))


class ShortOnce(Tiny):
    """Has too little memory the first time, as beside others."""

    def architecture(self, *, auxiliary: bool) -> nn.Module:
        """Fail, and leave a mark that the next one sees."""
        mark = Path(os.environ["SHORT_ONCE"])
        if not mark.exists():
            mark.touch()
            raise MemoryError("too many at once")
        return super().architecture(auxiliary=auxiliary)


class Hungry(Tiny):
    """Takes 512 MiB for each image."""

    def logits(self, output: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Eat what is let go of at once."""
        bytearray(len(output) * 2**29)
        return output, ()


class Forks(Tiny):
    """Leaves a process behind that keeps a processor busy, and memory that nobody lets go of."""

    kept: ClassVar[list[bytearray]] = []

    def architecture(self, *, auxiliary: bool) -> nn.Module:
        """Leave it behind."""
        left = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        Path(os.environ["LEFT_BEHIND"]).write_text(str(left.pid))
        return super().architecture(auxiliary=auxiliary)

    def logits(self, output: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Leak 1 MiB a call."""
        self.kept.append(bytearray(2**20))
        return output, ()


class Tuple(Tiny):
    """Gives more than logits, and does not say which they are."""

    def architecture(self, *, auxiliary: bool) -> nn.Module:
        """Build a network that returns a tuple."""
        from torch import nn

        class Twice(nn.Sequential):
            def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
                found = super().forward(images)
                return found, found

        return Twice(*super().architecture(auxiliary=auxiliary))


class Slow(Tiny):
    """Takes its time over each batch, so that a test can interrupt it."""

    def logits(self, output: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Sleep a little."""
        time.sleep(0.02)
        return output, ()


class RaisesUnderLoad(Tiny):
    """Raises when LoadGen has begun to ask, but not at once."""

    def __init__(self) -> None:
        self._calls = 0

    def logits(self, output: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Raise."""
        self._calls += any(thread.name == "LoadGen" for thread in threading.enumerate())
        if self._calls > 5:
            raise RuntimeError("gave up under load")
        return output, ()


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
