from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness import registry
from harness.api import Backbone
from harness.errors import BrokenPluginError, PluginError, PluginNotFoundError
from support import Harness


@pytest.fixture
def installed(test_plugins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(test_plugins))


def test_built_ins_are_there_through_entry_points_alone() -> None:
    found = {(plugin.kind, plugin.name) for plugin in registry.plugins() if plugin.distribution == "transfer-harness"}
    assert {("backbone", name) for name in ("alexnet", "googlenet", "resnet18")} <= found
    assert {("schedule", "paper"), ("schedule", "paper-eval-bn"), ("ensemble", "majority_vote")} <= found
    assert {("dataset", name) for name in ("chest-xray", "imagefolder", "phantom", "pneumoniamnist")} <= found


def test_the_core_names_no_plugin() -> None:
    core = Path(registry.__file__).parent
    for path in core.rglob("*.py"):
        assert "import harness_plugins" not in path.read_text()
        assert "from harness_plugins" not in path.read_text()


@pytest.mark.parametrize("plugin", registry.plugins(), ids=str)
def test_every_installed_plugin_loads(plugin: registry.Plugin) -> None:
    assert registry.load(plugin, registry.BASES[plugin.kind]) is not None


def test_third_party_origin(installed: None) -> None:
    record = registry.find("backbone", "tiny").record
    assert (record.distribution, record.version) == ("harness-test-plugins", "1.2.3")


def test_unknown_names_offer_the_nearest() -> None:
    with pytest.raises(PluginNotFoundError, match="Did you mean resnet18"):
        registry.find_any("resnet81")
    with pytest.raises(PluginNotFoundError, match="no schedule plugin is called 'resnet18'"):
        registry.find("schedule", "resnet18")


def test_a_name_of_two_kinds_must_be_settled(installed: None) -> None:
    with pytest.raises(PluginError, match="backbone:clash or schedule:clash"):
        registry.find_any("clash")
    assert registry.find_any("schedule:clash").kind == "schedule"


def test_a_name_registered_twice_is_an_error(duplicate_plugins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(duplicate_plugins))
    with pytest.raises(PluginError, match=r"harness-duplicate 0\.9 and transfer-harness"):
        registry.find("backbone", "resnet18")


@pytest.mark.parametrize(
    ("name", "message", "details"),
    [
        ("import_error", "KeyError", "in _look_up"),
        ("exits_at_import", "SystemExit: bye", "exits_at_import.py"),
        ("wrong_type", r"should be a harness\.api\.Backbone.*found builtins\.dict", ""),
    ],
)
def test_a_broken_plugin_shows_its_own_traceback(installed: None, name: str, message: str, details: str) -> None:
    with pytest.raises(BrokenPluginError, match=message) as caught:
        registry.load(registry.find("backbone", name), Backbone)
    assert "harness-test-plugins 1.2.3" in str(caught.value)
    assert details in caught.value.details


def test_listing_imports_neither_torch_nor_a_plugin(harness: Harness, test_plugins: Path) -> None:
    listed = harness("plugins", PYTHONPATH=str(test_plugins))
    assert listed.returncode == 0
    assert "exits_at_import" in listed.stdout


@pytest.mark.parametrize(
    "command", [["--help"], ["plugins"], ["run", "--help"], ["data", "list"], ["report", "--help"]]
)
def test_commands_that_need_no_torch_import_none(command: list[str], tmp_path: Path) -> None:
    program = (
        "import sys; from harness.cli import main\n"
        f"try: main({command!r})\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'torchvision', 'timm'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path, capture_output=True)


def test_the_command_line_starts_light() -> None:
    program = (
        "import sys, harness.cli; heavy = {'numpy', 'pydantic', 'sqlalchemy'} & set(sys.modules); assert not heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_plugin_built_for_another_interface_is_told_so(
    ancient_plugins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ancient_plugins))
    plugin = registry.find("backbone", "ancient")
    assert plugin.api == "0"
    with pytest.raises(BrokenPluginError, match=r"built for version 0 of harness\.api, and this is 1; install one"):
        registry.load(plugin, Backbone)
    assert registry.find("backbone", "resnet18").unfit is None


def test_such_a_plugin_stands_in_the_list_and_harms_nothing(harness: Harness, ancient_plugins: Path) -> None:
    done = harness("plugins", "--kind", "backbone", "--json", PYTHONPATH=str(ancient_plugins))
    assert done.returncode == 0
    assert {row["name"]: row["api"] for row in json.loads(done.stdout)}["ancient"] == "0"
    assert "'ancient' (harness_ancient:Ancient, from harness-ancient 0.3): it was built for version 0" in done.stderr
    verified = harness("plugins", "--kind", "backbone", "--verify", "--json", PYTHONPATH=str(ancient_plugins))
    failures = {row["name"]: row["failure"] for row in json.loads(verified.stdout)}
    assert verified.returncode == 1
    assert [name for name, failure in failures.items() if failure] == ["ancient"]
