"""How checks of plugins are run."""

from __future__ import annotations

import socket
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from harness.results import CheckResult, Event, Note, Progress

__all__ = ["NonconformingError", "Tell", "offline", "require", "run_checks"]

_S = TypeVar("_S")
Tell = Callable[[Event], None]


class NonconformingError(Exception):
    """A plugin does not hold to something; the message says to what, in its author's terms."""


def run_checks(subject: _S, checks: Sequence[Callable[[_S], None]], tell: Tell) -> Iterator[CheckResult]:
    """Run checks, each without a network, and yield what came of them; a check's docstring is its name."""
    for number, check in enumerate(checks):
        name = (check.__doc__ or "").strip().rstrip(".")
        tell(Note(name))
        tell(Progress(name, number, len(checks)))
        try:
            with offline():
                check(subject)
        except NonconformingError as error:
            yield CheckResult(name, str(error))
        except Exception as error:  # a plugin's own: whatever it raises
            yield CheckResult(name, f"{type(error).__name__}: {error}", traceback.format_exc())
        else:
            yield CheckResult(name)


def require(condition: object, otherwise: str) -> None:
    """Find a plugin not to hold to something, unless it does."""
    if not condition:
        raise NonconformingError(otherwise)


@contextmanager
def offline() -> Iterator[list[object]]:
    """Refuse connections, and yield a list of the addresses that were asked for."""
    addresses: list[object] = []

    before = socket.socket.connect, socket.socket.connect_ex

    def refuse(line: socket.socket, address: Any) -> None:
        if line.family == getattr(socket, "AF_UNIX", None):  # of this machine: so processes hand tensors to each other
            return before[0](line, address)
        addresses.append(address)
        raise OSError("there is no network while a plugin is checked")

    socket.socket.connect = socket.socket.connect_ex = refuse  # type: ignore[method-assign, assignment]
    try:
        yield addresses
    finally:
        socket.socket.connect, socket.socket.connect_ex = before  # type: ignore[method-assign]
