"""What this machine can do at most: the roofs under which every measurement lies."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from PIL import Image

from harness.config import Precision, RoofTask
from harness.engine.device import emulates, resolve_device
from harness.measure.environment import read_environment
from harness.measure.latency import measure_latency
from harness.results import Event, Measurement, Note, Progress

__all__ = ["execute"]

_PRODUCT = {"cpu": 4096, "cuda": 8192}  # rows and columns
_COPIED = 2**28  # bytes, more than caches hold
_LAUNCHES = 1000
_IMAGE = 224  # pixels on a side
_DECODED = 64  # images in a sample
_CPU = torch.device("cpu")


def execute(task: RoofTask, emit: Callable[[Event], None], _stopping: Callable[[], bool] = lambda: False) -> None:
    """Measure, handing every result to ``emit``: an :class:`~harness.results.Environment`, then measurements.

    These are ``matmul_fp32``, ``matmul_bf16``, on a GPU ``matmul_tf32`` (FLOP/s), ``copy`` (bytes read and written a
    second, within the device's memory), ``host_to_device`` (B/s), ``launch`` (operators of one element a second) and
    ``decode`` (RGB JPEG images of 224 x 224 a second and core).

    Raises:
        HarnessError: the device is not there.
    """

    def note(text: str) -> None:
        emit(Note(text))

    device = resolve_device(task.device, "fp32", note)
    environment = read_environment(device)
    emit(environment)
    precisions: tuple[Precision, ...] = ("fp32", "bf16") if device.type == "cpu" else ("fp32", "tf32", "bf16")
    ways: dict[str, Callable[[], None]] = {}

    def measured(name: str, unit: str, work: float, call: Callable[[], object], where: torch.device = device) -> None:
        """Time a call that does so much work; store how much that is a second."""
        latency = measure_latency(call, 1, where, environment.device_name, task.rule)
        emit(Measurement(name, unit, work / latency.samples, latency.device, details={**latency.details, "work": work}))

    def absent(name: str, unit: str, why: str) -> None:
        emit(Measurement(name, unit, np.array([]), environment.device_name, details={"absent": why}))

    for precision in precisions:
        name = f"matmul_{precision}"
        if emulates(device, precision):
            ways[name] = partial(absent, name, "FLOP/s", f"this device has no instructions for {precision}")
        else:
            n = _PRODUCT[device.type]
            ways[name] = partial(measured, name, "FLOP/s", 2.0 * n**3, _product(n, device, precision))
    ways["copy"] = partial(measured, "copy", "B/s", 2.0 * _COPIED, _copy(device, device))
    if device.type == "cpu":
        ways["host_to_device"] = partial(absent, "host_to_device", "B/s", "a CPU works in the host's memory")
    else:
        ways["host_to_device"] = partial(measured, "host_to_device", "B/s", float(_COPIED), _copy(_CPU, device))
    ways["launch"] = partial(measured, "launch", "1/s", float(_LAUNCHES), _launches(device))
    ways["decode"] = partial(measured, "decode", "images/s", float(_DECODED), _decodes(), _CPU)
    with torch.inference_mode():
        for number, (name, way) in enumerate(ways.items()):
            emit(Progress(name, number, len(ways)))
            way()


def _product(n: int, device: torch.device, precision: Precision) -> Callable[[], object]:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))  # a GPU multiplies ones faster
    out = torch.empty_like(left)

    def call() -> None:
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        torch.mm(left, right, out=out)

    return call


def _copy(source: torch.device, target: torch.device) -> Callable[[], object]:
    pinned = source != target
    there = torch.zeros(_COPIED, dtype=torch.uint8, device=source, pin_memory=pinned)
    here = torch.zeros(_COPIED, dtype=torch.uint8, device=target)
    return partial(here.copy_, there, non_blocking=pinned)


def _launches(device: torch.device) -> Callable[[], object]:
    value = torch.zeros(1, device=device)

    def call() -> None:
        for _ in range(_LAUNCHES):
            value.add_(1)

    return call


def _decodes() -> Callable[[], object]:
    """Decode, in one thread, a JPEG image that has details of all sizes, as a radiograph has: about 8 KB."""
    draws = np.random.default_rng(0)
    levels = np.full((_IMAGE, _IMAGE), 128.0)
    for size in (7, 28, 112):
        noise = Image.fromarray(draws.normal(0, size**-0.5, (size, size)).astype(np.float32))
        levels += 40 * np.asarray(noise.resize((_IMAGE, _IMAGE), Image.Resampling.BICUBIC))
    file = io.BytesIO()
    Image.fromarray(levels.clip(0, 255).astype(np.uint8)).convert("RGB").save(file, "JPEG", quality=90)

    def call() -> None:
        for _ in range(_DECODED):
            np.asarray(Image.open(io.BytesIO(file.getvalue())))

    return call
