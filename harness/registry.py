"""Plugins by their entry points: listed without importing, loaded one at a time, with their origin."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar, get_args

from harness.api import (
    VERSION,
    Backbone,
    Dataset,
    Ensemble,
    Family,
    Kind,
    LearningRate,
    Loss,
    Optimizer,
    Schedule,
)
from harness.errors import BrokenPluginError, PluginError, PluginNotFoundError, did_you_mean
from harness.results import PluginRecord

__all__ = ["BASES", "KINDS", "Kind", "Plugin", "find", "find_any", "load", "plugins"]

KINDS: tuple[Kind, ...] = get_args(Kind)
BASES: dict[Kind, type[Any]] = {
    "backbone": Backbone,
    "family": Family,
    "schedule": Schedule,
    "rate": LearningRate,
    "optimizer": Optimizer,
    "loss": Loss,
    "ensemble": Ensemble,
    "dataset": Dataset,
}

_GROUPS = {kind: f"harness.{kind}s" for kind in KINDS} | {"family": "harness.families", "loss": "harness.losses"}
_T = TypeVar("_T")


@dataclass(frozen=True)
class Plugin:
    """An installed plugin, not imported yet. ``target`` is ``module:attribute``.

    ``member`` is the name that a backbone has in its family, whose entry point this is then. ``api`` is the version of
    :mod:`harness.api` that it says it was built for, if it does: ``version-1`` in the group ``harness.api``.
    """

    kind: Kind
    name: str
    distribution: str
    version: str
    target: str
    entry_point: EntryPoint
    member: str | None = None
    api: str | None = None

    @property
    def unfit(self) -> str | None:
        """Why it cannot be used, if it was built for another version of :mod:`harness.api`."""
        if self.api in (None, str(VERSION)):
            return None
        return f"it was built for version {self.api} of harness.api, and this is {VERSION}; install one that fits"

    @property
    def record(self) -> PluginRecord:
        """Return what a run stores of it."""
        return PluginRecord(self.kind, self.name, self.distribution, self.version)

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r} ({self.target}, from {self.distribution} {self.version})"


def plugins(kind: Kind | None = None) -> list[Plugin]:
    """List the installed plugins by kind and name, without importing any."""
    built_for = {
        point.dist.name: point.name.removeprefix("version-")
        for point in entry_points(group="harness.api")
        if point.dist
    }
    found = [
        Plugin(
            k,
            point.name,
            point.dist.name if point.dist else "unknown",
            point.dist.version if point.dist else "unknown",
            point.value,
            point,
            api=built_for.get(point.dist.name) if point.dist else None,
        )
        for k in KINDS
        if kind in (None, k)
        for point in entry_points(group=_GROUPS[k])
    ]
    return sorted(found, key=lambda plugin: (KINDS.index(plugin.kind), plugin.name, plugin.distribution))


def find(kind: Kind, name: str) -> Plugin:
    """Return the plugin of that kind and name; ``FAMILY:NAME`` is a backbone too.

    Raises:
        PluginNotFoundError: there is none; the nearest names are given. Whether a family has the name shows when it is
            loaded.
        PluginError: two distributions register the same name.
    """
    family, colon, member = name.partition(":")
    if kind == "backbone" and colon:
        return replace(find("family", family), kind="backbone", name=name, member=member)
    candidates = plugins(kind)
    found = [plugin for plugin in candidates if plugin.name == name]
    if not found:
        near = did_you_mean(name, [plugin.name for plugin in candidates])
        raise PluginNotFoundError(f"no {kind} plugin is called {name!r}. {near}")
    if len(found) > 1:
        origins = " and ".join(f"{plugin.distribution} {plugin.version}" for plugin in found)
        raise PluginError(f"the {kind} plugin {name!r} is registered twice, by {origins}; uninstall one of them")
    return found[0]


def find_any(name: str) -> Plugin:
    """Return the plugin of that name, whatever its kind; ``kind:name`` settles a clash.

    Raises:
        PluginNotFoundError: no kind has it; the nearest names are given.
        PluginError: several kinds have it.
    """
    prefix, colon, rest = name.partition(":")
    if colon and prefix in KINDS:
        return find(prefix, rest)
    if colon:
        return find("backbone", name)
    candidates = plugins()
    kinds = sorted({plugin.kind for plugin in candidates if plugin.name == name})
    if not kinds:
        near = did_you_mean(name, {plugin.name for plugin in candidates})
        raise PluginNotFoundError(f"no plugin is called {name!r}. {near}")
    if len(kinds) > 1:
        raise PluginError(f"{name!r} is the name of several plugins; say {' or '.join(f'{k}:{name}' for k in kinds)}")
    if kinds == ["family"]:
        raise PluginNotFoundError(
            f"{name!r} is a family of backbones: say {name}:NAME, of `harness plugins --family {name}`"
        )
    return find(kinds[0], name)


def load(plugin: Plugin, base: type[_T]) -> _T:
    """Import a plugin and check that it is what its entry point's group promises.

    Raises:
        BrokenPluginError: the import failed (with the plugin's traceback), or it is of another type, or was built for
            another version of :mod:`harness.api`.
    """
    if plugin.unfit:
        raise BrokenPluginError(f"the {plugin} cannot be loaded: {plugin.unfit}")
    try:
        target = plugin.entry_point.load()
        obj = target() if isinstance(target, type) else target
        if plugin.member is not None:
            if not isinstance(obj, Family):
                raise TypeError(f"it is no harness.api.Family, but a {type(obj).__name__}")
            obj = obj.backbone(plugin.member)
    except PluginNotFoundError:  # a family has no such member
        raise
    except (Exception, SystemExit) as error:
        details = traceback.format_exc()
        raise BrokenPluginError(f"the {plugin} cannot be loaded: {type(error).__name__}: {error}", details) from error
    if not isinstance(obj, base):
        raise BrokenPluginError(
            f"the {plugin} should be a harness.api.{base.__name__} or a class of that kind; "
            f"found {type(obj).__module__}.{type(obj).__qualname__}"
        )
    return obj
