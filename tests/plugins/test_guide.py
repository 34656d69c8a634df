"""The guide for authors has every extension point, and its examples hold to what is checked."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from harness import registry
from harness.api import Dataset, Options
from harness.testing import conformance

GUIDE = (Path(__file__).parents[2] / "plugins" / "README.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", GUIDE, re.MULTILINE | re.DOTALL))


def _example(kind: str, folder: Path) -> Any:
    """Import a section's code as a module, and return the plugin that is its own."""
    (code,) = re.findall(r"```python\n(.*?)```", SECTIONS[kind.capitalize()], re.DOTALL)
    (folder / f"guide_{kind}.py").write_text(code)
    module = importlib.import_module(f"guide_{kind}")
    base = registry.BASES[kind]
    own = [value for value in vars(module).values() if getattr(value, "__module__", None) == module.__name__]
    (found,) = [value for value in own if isinstance(value, type) and issubclass(value, base)] or [
        value for value in vars(module).values() if isinstance(value, base)
    ]
    return found() if isinstance(found, type) else found


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_extension_point_has_an_entry_with_an_example_that_conforms(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    example = _example(kind, tmp_path)
    check = getattr(conformance, f"check_{kind}")
    found = list(check(example, "stripes")) if isinstance(example, Dataset) else list(check(example))
    assert len(found) >= 3
    assert [result for result in found if not result.passed] == []


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_extension_point_has_a_check_and_a_row_in_the_table(kind: str) -> None:
    base = registry.BASES[kind].__name__
    group = {"family": "families", "loss": "losses"}.get(kind, f"{kind}s")
    assert f"check_{kind}" in conformance.__all__
    assert re.search(rf"\| `harness\.{group}` \| `{base}` \| `check_{kind}` \|", GUIDE)


@pytest.mark.parametrize("kind", registry.KINDS)
def test_the_guide_names_all_that_a_base_class_has(kind: str) -> None:
    base = registry.BASES[kind]
    members = {name for name, value in vars(base).items() if not name.startswith("_") and inspect.isfunction(value)}
    if issubclass(base, Options):
        members |= set(base.model_fields)
    else:
        members |= {name for name in get_type_hints(base) if not name.startswith("_")}
    missing = members - set(re.findall(r"\w+", SECTIONS[kind.capitalize()]))
    assert missing <= {"description", "weight_decay"}, f"the guide does not name {missing}"


@pytest.mark.parametrize("name", ["Stage", "Transform"])
def test_the_guide_names_all_options_of_a_schedule(name: str) -> None:
    from harness import api

    missing = set(getattr(api, name).model_fields) - set(re.findall(r"\w+", SECTIONS["Schedule"]))
    assert missing <= {"name", "epochs", "batch_size"}, f"the guide does not name {missing}"
