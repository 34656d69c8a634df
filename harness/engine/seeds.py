"""Where chance comes from: every draw is a function of the run's seed and of what it is for."""

from __future__ import annotations

import hashlib

import torch

__all__ = ["generator", "seed_for"]


def seed_for(seed: int, *purpose: str | int) -> int:
    """Derive an independent 63-bit seed for ``purpose``, such as ``("frozen", "order", 3)``.

    As each epoch draws anew, an epoch can be replayed without those before it.
    """
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Return a CPU generator for ``purpose``."""
    return torch.Generator().manual_seed(seed_for(seed, *purpose))
