"""What a call has to do: operations of arithmetic, bytes of tensors, and how many kernels that takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from harness.results import Measurement

__all__ = ["Work", "count_work", "measure_work"]


@dataclass(frozen=True)
class Work:
    """Of one call.

    Args:
        flops: multiplications and additions of convolutions and matrix products, as torch counts them: two a
            multiply-accumulate.
        moved_bytes: of the tensors that operators read and write, each operator on its own: what caches and fusing save
            is still in it.
        kernels: operators that compute something.
    """

    flops: int
    moved_bytes: int
    kernels: int


def count_work(call: Callable[[], object]) -> Work:
    """Watch one call."""
    with FlopCounterMode(display=False) as flops, _Traffic() as traffic:
        call()
    return Work(int(flops.get_total_flops()), traffic.moved_bytes, traffic.kernels)


def measure_work(call: Callable[[], object], batch_size: int, device_name: str) -> list[Measurement]:
    """Watch one call that works on a batch; return its ``flops``, ``moved_bytes`` and ``kernels``."""
    work = count_work(call)
    counts = (("flops", "FLOP", work.flops), ("moved_bytes", "B", work.moved_bytes), ("kernels", "1", work.kernels))
    return [
        Measurement(name, unit, np.array([count], np.float64), device_name, batch_size) for name, unit, count in counts
    ]


class _Traffic(TorchDispatchMode):
    """Counts what operators read and write."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.moved_bytes = 0
        self.kernels = 0

    def __torch_dispatch__(self, operator: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = operator(*args, **(kwargs or {}))
        read, written = ([leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)] for tree in (args, made))
        there = {tensor.untyped_storage().data_ptr() for tensor in read}
        is_view = all(tensor.untyped_storage().data_ptr() in there for tensor in written)
        if written and (operator._schema.is_mutable or not is_view):
            self.moved_bytes += sum(tensor.nbytes for tensor in (*read, *written))
            self.kernels += 1
        return made
