"""Types that tests share."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.results import DatasetRecord, PlannedRun, PluginRecord
from harness.store import Store

ROOT = Path(__file__).parent.parent
Harness = Callable[..., subprocess.CompletedProcess[str]]


def begin_run(
    store: Store,
    experiment: str,
    *,
    backbone: str,
    dataset: DatasetRecord,
    schedule: str = "paper",
    seed: int = 0,
    config: Mapping[str, Any] | None = None,
    config_hash: str = "c" * 64,
    plugins: Sequence[PluginRecord] = (),
    command: str = "harness run",
) -> int:
    """Plan one more run of an experiment and begin it; return its id."""
    planned = PlannedRun(backbone, schedule, seed, config or {}, config_hash, tuple(plugins), dataset)
    sweep = store.plan([planned], command=command, experiment=experiment, repeat=True)
    (run_id,) = sweep.run_ids
    assert store.begin(run_id)
    return run_id
