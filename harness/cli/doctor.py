"""`harness doctor`."""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from harness.cli.output import err, escape, out, print_json
from harness.errors import HarnessError, StoreError

if TYPE_CHECKING:
    from harness.api import Backbone, Dataset
    from harness.registry import Plugin

__all__ = ["doctor"]

State = Literal["ok", "note", "broken"]


@dataclass(frozen=True)
class _Finding:
    """One thing looked at. ``note`` is something to know; ``broken`` is something to mend."""

    what: str
    state: State
    text: str
    details: str = ""


def doctor(
    db: Annotated[str, typer.Option(envvar="HARNESS_DB", help="Results database: a file or a URL.")] = "benchmark.db",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look at this installation: versions, devices, plugins, weights, data, folders, database.

    Exit code 1 if something is broken. Example: harness doctor
    """
    findings = [*_versions(), *_devices(), *_plugins(), *_folders(), _database(db)]
    if as_json:
        print_json([vars(finding) for finding in findings])
    else:
        from rich.table import Table

        marks = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "broken": "[bold red]broken[/]"}
        table = Table(show_header=False, box=None)
        for finding in findings:
            table.add_row(marks[finding.state], escape(finding.what), escape(finding.text))
        out.print(table)
        for finding in findings:
            if finding.details:
                err.print(f"\n[bold]{escape(finding.what)}[/]\n{escape(finding.details.rstrip())}", soft_wrap=True)
    if any(finding.state == "broken" for finding in findings):
        raise typer.Exit(1)


def _versions() -> Iterator[_Finding]:
    import platform
    from importlib.metadata import version

    yield _Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}")
    for name in ("transfer-harness", "torch", "torchvision", "timm", "sqlalchemy"):
        yield _Finding(name, "ok", version(name))


def _devices() -> Iterator[_Finding]:
    import torch

    yield _Finding("cpu", "ok", f"{torch.get_num_threads()} threads")
    if not torch.cuda.is_available():
        yield _Finding("cuda", "note", "no GPU that this torch can use; runs go to the cpu")
    for index in range(torch.cuda.device_count()):
        yield _Finding(f"cuda:{index}", "ok", torch.cuda.get_device_name(index))


def _plugins() -> Iterator[_Finding]:
    from harness import registry
    from harness.launch.load import load_elsewhere

    found = registry.plugins()
    for plugin, failure in zip(found, load_elsewhere(found), strict=True):
        what = f"{plugin.kind} {plugin.name}"
        if failure is not None:
            yield _Finding(what, "broken", failure.message, failure.traceback)
            continue
        try:
            yield _look_into(what, plugin, registry.load(plugin, registry.BASES[plugin.kind]))
        except Exception as error:  # a plugin's own, whatever it raises
            yield _Finding(what, "broken", f"{type(error).__name__}: {error}", traceback.format_exc())


def _look_into(what: str, plugin: Plugin, loaded: object) -> _Finding:
    from harness.api import Backbone, Dataset

    origin = f"{plugin.distribution} {plugin.version}"
    if isinstance(loaded, Backbone):
        return _weights(what, origin, loaded)
    if isinstance(loaded, Dataset):
        return _data(what, origin, plugin.name, loaded)
    return _Finding(what, "ok", origin)


def _weights(what: str, origin: str, backbone: Backbone) -> _Finding:
    from harness.paths import weights_dirs

    for published in backbone.pretrained().values():
        places = [published.path] if published.path else [folder / published.filename for folder in weights_dirs()]
        if not any(place.is_file() for place in places):
            return _Finding(what, "note", f"{origin}; {published.filename} is not here and will be downloaded")
    return _Finding(what, "ok", f"{origin}; weights are here")


def _data(what: str, origin: str, name: str, dataset: Dataset) -> _Finding:
    from pydantic import ValidationError

    try:
        splits = dataset.load(name, dataset.Options())
    except ValidationError:
        return _Finding(what, "ok", f"{origin}; needs options")
    except HarnessError as error:
        return _Finding(what, "note", f"{origin}; {error}")
    counts = " / ".join(str(len(refs)) for refs in splits.named().values())
    return _Finding(what, "ok", f"{origin}; {counts} images")


def _folders() -> Iterator[_Finding]:
    from harness.paths import cache_dir, data_dir

    for what, folder in {"data folder": data_dir(), "cache folder": cache_dir()}.items():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                yield _Finding(what, "ok", str(folder))
        except OSError as error:
            yield _Finding(what, "broken", f"{folder} cannot be written: {error.strerror}; HARNESS_HOME moves it")


def _database(db: str) -> _Finding:
    from harness.store import open_store

    if "://" not in db and not Path(db).exists():
        return _Finding("database", "note", f"{db} is not there yet; `harness run` makes it")
    try:
        with open_store(db, create=False) as store:
            return _Finding("database", "ok", f"{len(store.experiments())} experiments")
    except StoreError as error:
        return _Finding("database", "broken", str(error))
