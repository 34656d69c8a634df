"""A new plugin's package, written from templates: installable, and sound by its own tests."""

from __future__ import annotations

import importlib.util
import keyword
import re
from importlib.metadata import version
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from harness import registry
from harness.api import VERSION, Kind
from harness.errors import ConfigError

__all__ = ["KINDS", "write_package"]

_SUFFIXES: dict[Kind, str] = {"backbone": "Net", "schedule": "", "ensemble": "Rule", "dataset": "Images"}
KINDS = tuple(_SUFFIXES)


def write_package(name: str, kind: Kind, folder: Path) -> list[Path]:
    """Write a package into a folder that does not exist yet; return its files.

    Args:
        name: of the distribution, in small letters and hyphens; the plugin's has underscores instead.
        kind: of plugin.
        folder: where.

    Raises:
        ConfigError: the name is taken or is none, or the folder exists or cannot be written.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise ConfigError(f"{name!r} is no name of a package: small letters, digits and single hyphens, as my-{kind}")
    if folder.exists():
        raise ConfigError(f"{folder} exists already; choose another name, or --out")
    module = name.replace("-", "_")
    if keyword.iskeyword(module) or importlib.util.find_spec(module) is not None:
        raise ConfigError(f"{module!r} is a word or a module of Python's, or of what is installed; choose another name")
    if module in {plugin.name for plugin in registry.plugins(kind)}:
        raise ConfigError(f"the {kind} {module!r} is installed already; choose another name")
    camel = "".join(word.capitalize() for word in name.split("-"))
    camel += "" if kind in name else _SUFFIXES[kind]  # so that it hides nothing that the code imports
    values = {
        "distribution": name,
        "module": module,
        "kind": kind,
        "words": "data set" if kind == "dataset" else kind,
        "article": "An" if kind == "ensemble" else "A",
        "target": module.upper() if kind == "schedule" else camel,
        "version": version("transfer-harness"),
        "group": f"{kind}s",
        "api": VERSION,
    }
    # Code and settings, not HTML: nothing to escape, and every value was checked above.
    templates = Environment(  # noqa: S701
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    files = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        f"src/{module}/__init__.py": f"{kind}.py",
        f"tests/test_{module}.py": f"test_{kind}.py",
        ".github/workflows/tests.yml": "ci.yml",
    }
    written = []
    for place, template in files.items():
        path = folder / place
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(templates.get_template(f"{template}.j2").render(values))
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
        written.append(path)
    return written
