"""The workflows of .github/: valid, and their steps run here as a runner would run them, in a clean clone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from ruamel.yaml import YAML

from gate_errors import commit
from harness.launch.environments import make_environment
from support import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
NETWORK = Path("plugins/harness_plugins/backbones/torchvision.py")


def _read(name: str) -> Any:
    return YAML(typ="safe").load(ROOT / ".github" / "workflows" / f"{name}.yml")


def test_they_are_valid() -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", *map(str, WORKFLOWS)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_what_others_write_reaches_no_shell(path: Path) -> None:
    """An expression inside of a script is replaced before the shell reads it: a branch's name could be a command."""
    workflow = _read(path.stem)
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            assert "${{" not in step.get("run", ""), step
    given = [workflow["permissions"], *(job.get("permissions", {}) for job in workflow["jobs"].values())]
    writes = {name for rights in given for name, right in rights.items() if right == "write"}
    used = [step.get("uses", "") for job in workflow["jobs"].values() for step in job["steps"]]
    runs_others_code = any("checkout" in action for action in used)
    assert not (writes and runs_others_code), "a token that may write is not where a pull request's code runs"


class Runner:
    """Runs the scripts of a job's steps, in their order; what they ``use`` is taken to be there.

    Args:
        workflow: its name.
        job: its name.
        folder: a clone, where steps begin.
        values: of the expressions in ``env``.
        path: what comes first in PATH.
    """

    def __init__(self, workflow: str, job: str, folder: Path, values: Mapping[str, str], path: Path) -> None:
        content = _read(workflow)
        self._job, self._folder, self._values = content["jobs"][job], folder, values
        self.summary = folder.parent / "summary.md"
        self._env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTEST_", "PYTHONPATH", "HARNESS_"))
        }
        self._env |= {"PATH": f"{path}:{os.environ['PATH']}", "HARNESS_HOME": str(folder.parent / "home")}
        self._env |= {"GITHUB_STEP_SUMMARY": str(self.summary), "CI": "true"}
        self._env |= self._given(content) | self._given(self._job)

    def _given(self, what: Mapping[str, Any]) -> dict[str, str]:
        def value(match: re.Match[str]) -> str:
            return self._values[match[1]]

        return {name: re.sub(r"\$\{\{ (.+?) \}\}", value, str(said)) for name, said in what.get("env", {}).items()}

    def run(self) -> dict[str, subprocess.CompletedProcess[str]]:
        """Run the steps; after one that fails, those that always run."""
        done: dict[str, subprocess.CompletedProcess[str]] = {}
        for step in self._job["steps"]:
            failed = any(one.returncode for one in done.values())
            if "run" not in step or (failed and step.get("if") != "always()"):
                continue
            done[step["name"]] = subprocess.run(
                ["bash", "-e", "-c", step["run"]],
                cwd=self._folder,
                env=self._env | self._given(step),
                capture_output=True,
                text=True,
                check=False,
            )
        return done


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of what is here, tagged `before`, and `slower` where ResNet18 has become ResNet34."""
    folder = tmp_path_factory.mktemp("workflow") / "clone"
    listed = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        source = ROOT / name
        if source.is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(source.read_bytes())
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)
    commit(folder, "before")
    code = (folder / NETWORK).read_text()
    (folder / NETWORK).write_text(re.sub("resnet18(?=\\(weights|\n\n)", "resnet34", code))
    assert (folder / NETWORK).read_text() != code
    commit(folder, "slower")
    return folder


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of a new environment, behind whose packages lie those that are installed here: torch is large."""
    return make_environment(tmp_path_factory.mktemp("environment")).parent


def _sha(clone: Path, tag: str) -> str:
    said = subprocess.run(["git", "-C", str(clone), "rev-parse", tag], capture_output=True, text=True, check=True)
    return said.stdout.strip()


@pytest.mark.slow  # four minutes and more
@pytest.mark.timeout(1800)
def test_a_planted_slowdown_fails_its_pull_request(clone: Path, fresh: Path) -> None:
    values = {
        "github.event.pull_request.base.sha": _sha(clone, "before"),
        "github.event.pull_request.head.sha": _sha(clone, "slower"),
        "github.event.pull_request.number": "7",
    }
    runner = Runner("throughput", "gate", clone, values, fresh)
    done = runner.run()
    assert list(done) == ["Install", "Gate", "Summary"]
    assert done["Install"].returncode == 0, done["Install"].stderr
    assert done["Gate"].returncode == 1, done["Gate"].stdout + done["Gate"].stderr
    assert done["Summary"].returncode == 0
    summary = runner.summary.read_text()
    assert summary.startswith("### harness gate: fail")
    assert "| `resnet18 inference fp32 batch 8` |" in summary
    results = clone / "results"
    assert (results / "number").read_text() == "7\n"
    assert ET.parse(results / "junit.xml").getroot().get("failures") == "1"


@pytest.fixture
def github(tmp_path: Path) -> Path:
    """A stand-in for GitHub's `gh`, whose service is not to be had in a test: it knows one pull request."""
    program = tmp_path / "bin" / "gh"
    program.parent.mkdir()
    program.write_text(
        '#!/bin/bash\necho "$@" >> "$0.log"\n'
        'case "$*" in */pulls/*) echo c0ffee;; */issues/7/comments?*) cat "$0.known" 2>/dev/null || true;; esac\n'
    )
    program.chmod(0o755)
    return program


@pytest.mark.parametrize(
    ("number", "measured", "known", "commented"),
    [
        ("7\n", "c0ffee", "", "--method POST repos/somebody/harness/issues/7/comments"),
        ("7\n", "c0ffee", "99", "--method PATCH repos/somebody/harness/issues/comments/99"),
        ("7\n", "another", "", None),
        ("$(touch oops)\n", "c0ffee", "", None),
    ],
)
def test_only_the_pull_request_that_was_measured_gets_the_comment(
    github: Path, tmp_path: Path, number: str, measured: str, known: str, commented: str | None
) -> None:
    results = tmp_path / "work" / "results"
    results.mkdir(parents=True)
    (results / "number").write_text(number)
    (results / "summary.md").write_text("### harness gate: pass\n@somebody <b>\n" + 100_000 * "x")
    Path(f"{github}.known").write_text(known)
    values = {
        "github.token": "secret",
        "github.repository": "somebody/harness",
        "github.event.workflow_run.head_sha": measured,
        "github.event.workflow_run.html_url": "https://example.org/run",
    }
    (done,) = Runner("comment", "comment", results.parent, values, github.parent).run().values()
    log = Path(f"{github}.log")
    asked = log.read_text().splitlines() if log.exists() else []
    assert (done.returncode == 0) == (commented is not None), done.stdout + done.stderr
    written = [line for line in asked if "--method" in line]
    assert written == ([f"api {commented} --field body=@comment.md"] if commented else [])
    assert not (results.parent / "oops").exists()
    if commented:
        first, second, *rest = (results.parent / "comment.md").read_text().splitlines()
        assert (first, second) == (
            "<!-- harness gate -->",
            "What [throughput](https://example.org/run) says of c0ffee:",
        )
        assert all(line.startswith("    ") for line in rest[1:]), "what a fork wrote is not rendered"
        assert (results.parent / "comment.md").stat().st_size < 65_536, "GitHub takes no more"


def test_without_a_measurement_there_is_no_comment(github: Path, tmp_path: Path) -> None:
    of_run = ("github.event.workflow_run.head_sha", "github.event.workflow_run.html_url")
    values = dict.fromkeys(["github.token", "github.repository", *of_run], "")
    (done,) = Runner("comment", "comment", tmp_path, values, github.parent).run().values()
    assert done.returncode == 0
    assert not Path(f"{github}.log").exists()
