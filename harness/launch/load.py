"""Whether a plugin can be loaded, tried in a process of its own: an import may hang, exit or crash."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from harness import registry
from harness.config import LoadTask
from harness.errors import PluginError
from harness.launch import Limits, run_in_child
from harness.registry import Plugin
from harness.results import Event, Failure

__all__ = ["execute", "load_elsewhere"]

_AT_ONCE = 2


def load_elsewhere(plugins: Iterable[Plugin], seconds: float = 30.0) -> list[Failure | None]:
    """Load each of some plugins in a process of its own; return why it cannot be, or None where it can.

    Args:
        plugins: which.
        seconds: after which an import counts as endless.
    """

    def load(plugin: Plugin) -> Failure | None:
        try:
            registry.find(plugin.kind, plugin.name)
        except PluginError as error:  # registered twice
            return Failure(type(error).__name__, str(error))
        task = LoadTask(plugin.kind, plugin.name)
        events = (event for event in run_in_child(task, Limits(seconds)) if isinstance(event, Failure))
        return next(events, None)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(load, plugins))


def execute(task: LoadTask, _emit: Callable[[Event], None], _stopping: Callable[[], bool] = lambda: False) -> None:
    """Load a plugin in this process.

    Raises:
        PluginError: it cannot be loaded.
    """
    registry.load(registry.find(task.kind, task.name), registry.BASES[task.kind])
