"""A process that measures a backbone when it is told to, so that several can take turns: `harness gate` starts them.

It may run in another environment than the one that starts it, with another version of harness, so the two talk in JSON,
over the connection whose file descriptor is the only argument. First comes ``{"config": ...}``, answered by
``{"environment": ..., "weights": ..., "plugin": ...}``; then each ``{"calls": n}`` is answered by
``{"seconds": [...]}``. Any answer may be ``{"failure": "..."}``, after which the process ends.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import Any

from harness import registry
from harness.config import BenchConfig
from harness.engine.bench import prepare
from harness.errors import HarnessError
from harness.measure.clock import Stopwatch, now
from harness.results import Event, RunSetup

__all__ = ["main"]

_WARM_UP = 3, 0.3  # calls and seconds, both at least


def main(descriptor: int) -> None:
    """Answer until nobody asks any more."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    with Connection(descriptor) as line:
        try:
            for answer in _answers(line):
                line.send_bytes(json.dumps(answer).encode())
        except EOFError:
            return
        except HarnessError as error:
            line.send_bytes(json.dumps({"failure": str(error)}).encode())


def _answers(line: Connection) -> Iterator[dict[str, Any]]:
    config = BenchConfig.model_validate(json.loads(line.recv_bytes())["config"])
    events: list[Event] = []
    prepared = prepare(config, events.append)
    stopwatch = Stopwatch(prepared.device)
    calls, begin = 0, now()
    while calls < _WARM_UP[0] or now() - begin < _WARM_UP[1]:
        stopwatch.time(prepared.call)
        calls += 1
    plugin = asdict(registry.find("backbone", config.backbone).record)
    yield from (
        {"environment": asdict(event.environment), "weights": asdict(event.weights), "plugin": plugin}
        for event in events
        if isinstance(event, RunSetup)
    )
    while True:
        asked = json.loads(line.recv_bytes())["calls"]
        stopwatch.time(prepared.call)  # the others have used the caches meanwhile
        yield {"seconds": [stopwatch.time(prepared.call) for _ in range(asked)]}


def _end_with(parent: int) -> None:
    """End this process, in the middle of whatever it does, when its parent is gone."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]))
