"""Latency of inference: every sample kept, after a warm-up, alone on the device."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from harness.measure.clock import now, synchronize
from harness.results import Measurement

__all__ = ["measure_latency"]

WARM_UP = 3
LEAST_SAMPLES = 10
MOST_SAMPLES = 100
LONGEST_SECONDS = 5.0


def measure_latency(
    forward: Callable[[torch.Tensor], object], batch_size: int, image_size: int, device: torch.device, device_name: str
) -> Measurement:
    """Time ``forward`` on random float images (batch_size, 3, image_size, image_size) that are on the device already.

    Three calls warm up. Then samples are taken for five seconds, no fewer than 10 and no more than 100.

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
        while len(samples) < LEAST_SAMPLES or (len(samples) < MOST_SAMPLES and now() - begin < LONGEST_SECONDS):
            start = now()
            forward(images)
            synchronize(device)
            samples.append(now() - start)
    return Measurement("latency", "s", np.array(samples), device_name, batch_size=batch_size)
