"""Latency of inference: every sample kept, after a warm-up, alone on the device."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import median

import numpy as np
import torch

from harness.measure.clock import now, synchronize
from harness.results import Measurement

__all__ = ["measure_latency"]

WARM_UP = 3
LEAST_SAMPLES = 10
MOST_SAMPLES = 100
LONGEST_SECONDS = 3.0
PRECISION = 0.02  # width of the median's 95 % interval, as a share of the median


def measure_latency(
    forward: Callable[[torch.Tensor], object], batch_size: int, image_size: int, device: torch.device, device_name: str
) -> Measurement:
    """Time ``forward`` on random float images (batch_size, 3, image_size, image_size) that are on the device already.

    Three calls warm up. Then samples are taken until the median is known to 1 % either way, or for three seconds, no
    fewer than 10 and no more than 100.

    Returns:
        A measurement called ``latency``, in seconds a batch.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch_size, 3, image_size, image_size, generator=generator)
    images = images.to(device, memory_format=torch.channels_last)
    samples: list[float] = []
    with torch.inference_mode():
        for _ in range(WARM_UP):
            forward(images)
        synchronize(device)
        begin = now()
        while len(samples) < LEAST_SAMPLES or (
            len(samples) < MOST_SAMPLES and now() - begin < LONGEST_SECONDS and not _settled(samples)
        ):
            start = now()
            forward(images)
            synchronize(device)
            samples.append(now() - start)
    return Measurement("latency", "s", np.array(samples), device_name, batch_size=batch_size)


def _settled(samples: list[float]) -> bool:
    """Tell whether the 95 % interval of the median, between two order statistics, is narrow enough."""
    ordered = sorted(samples)
    n, reach = len(ordered), 0.98 * math.sqrt(len(ordered))
    low, high = ordered[math.floor(n / 2 - reach)], ordered[min(math.ceil(n / 2 + reach), n - 1)]
    return high - low <= PRECISION * median(ordered)
