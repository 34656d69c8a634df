"""Images on their way to the device, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from harness.engine.device import free_memory, out_of_memory

__all__ = ["BatchSize", "Split", "move"]

_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class Split:
    """Decoded images uint8 (n, size, size, 1 or 3), their labels int64 (n,) and the sha256 of each image's file.

    ``release`` is called when images have been read, which may be in a memory map.
    """

    images: Tensor
    labels: Tensor
    hashes: Sequence[str] = ()
    release: Callable[[], None] = lambda: None

    def batch(self, indices: Tensor, device: torch.device) -> Tensor:
        """Return images (b, channels, size, size) of ``indices`` on the device."""
        images = self.images[indices.to(self.images.device)].permute(0, 3, 1, 2)
        self.release()
        return images.to(device)


def move(splits: Mapping[str, Split], device: torch.device) -> dict[str, Split]:
    """Move all images to a device that has memory of its own, where they fit into half of what is free there."""
    free = free_memory(device)
    if free is None or sum(split.images.nbytes for split in splits.values()) > free / 2:
        return dict(splits)
    return {name: replace(split, images=split.images.to(device)) for name, split in splits.items()}


@dataclass
class BatchSize:
    """How many images at a time, where that changes nothing but speed: halved where memory does not suffice.

    ``note`` is told then.
    """

    size: int
    note: Callable[[str], None]

    def over(self, n: int, compute: Callable[[slice], _T]) -> Iterator[tuple[int, _T]]:
        """Yield how many of n images are done, and what ``compute`` made of the last of them, batch by batch."""
        done = 0
        while done < n:
            try:
                made = compute(slice(done, done + self.size))
            except (MemoryError, RuntimeError) as error:
                if self.size == 1 or not out_of_memory(error):
                    raise
                self.size //= 2
                self.note(f"memory does not suffice for batches of {2 * self.size} images; goes on with {self.size}")
                continue
            done = min(done + self.size, n)
            yield done, made
