"""Environments to measure in: the one that this process runs in, another that is installed, or a revision's own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.errors import MeasurementError, Stopped
from harness.launch import kill_group

__all__ = ["HERE", "Installed", "installed", "make_environment"]

HERE = "here"
_POLL_SECONDS = 0.2
_LINES = 8  # of what an installer says when it fails


@dataclass(frozen=True)
class Installed:
    """An environment with harness in it.

    Args:
        python: its interpreter.
        folder: where its processes work.
        commit: the revision that was installed; None where nobody knows.
        inherits: whether ``PYTHONPATH`` holds for it.
    """

    python: str
    folder: Path
    commit: str | None
    inherits: bool


@contextmanager
def installed(
    said: str, option: str, project: Path, stopping: Callable[[], bool] = lambda: False
) -> Iterator[Installed]:
    """Find or make the environment that ``said`` means, and remove what was made at the end.

    Args:
        said: ``here``, the folder of a virtual environment, its interpreter, or a revision of git.
        option: the option that said it.
        project: folder of the project whose revision it may be, in a git repository.
        stopping: tells whether somebody wants to stop.

    Raises:
        MeasurementError: it is none of them, or the revision cannot be installed.
        Stopped: somebody wanted to stop.
    """
    if said == HERE:
        yield Installed(sys.executable, Path.cwd(), None, inherits=True)
        return
    path = Path(said)
    python = path / "bin" / "python" if path.is_dir() else path
    if os.access(python, os.X_OK) and python.is_file() and python.name.startswith("python"):
        yield Installed(str(python.absolute()), Path.cwd(), None, inherits=False)
        return
    commit = _git(project, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{said}^{{commit}}")
    if commit is None:
        where = f"no revision of the git repository at {project.absolute()}"
        raise MeasurementError(
            f"{option} {said}: {where}, no Python environment, no {HERE!r}, no label:NAME and no commit:REV"
        )
    with tempfile.TemporaryDirectory(prefix="harness-environment-") as folder:
        yield _install(commit, f"{option} {said}", project, Path(folder), stopping)


def make_environment(folder: Path) -> Path:
    """Make a virtual environment that finds this one's packages behind its own, and return its interpreter."""
    venv.create(folder, symlinks=os.name != "nt")
    (site,) = (folder / "lib").glob("python*/site-packages")
    # `addsitedir` reads .pth files, of editable installs.
    others = [entry for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")]
    (site / "zz-others.pth").write_text("".join(f"import site; site.addsitedir({entry!r})\n" for entry in others))
    return folder / "bin" / "python"


def _install(commit: str, what: str, project: Path, folder: Path, stopping: Callable[[], bool]) -> Installed:
    """Install a revision of the project over what is installed here: only what differs is installed anew."""
    top = _git(project, "rev-parse", "--show-toplevel")
    if top is None:
        raise MeasurementError(f"--project {project}: git knows of no work tree there")
    source = folder / "source"
    _run(["git", "clone", "--quiet", "--shared", "--no-checkout", top, str(source)], what, stopping)
    _run(["git", "-C", str(source), "checkout", "--quiet", "--detach", commit], what, stopping)
    package = source / project.resolve().relative_to(Path(top).resolve())
    python = make_environment(folder / "environment")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, str(package)], what, stopping)
    return Installed(str(python), package, commit, inherits=False)


def _run(command: list[str], what: str, stopping: Callable[[], bool]) -> None:
    """Execute a command; what it prints is shown where it fails."""
    with tempfile.TemporaryFile() as said:
        try:
            # In a session of its own: an interrupt in the terminal is this process's, which then ends the command.
            process = subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env=_outside(),
                start_new_session=True,
            )
        except OSError as error:
            raise MeasurementError(f"{what} cannot be installed: {error}") from error
        while True:
            try:
                code = process.wait(_POLL_SECONDS)
                break
            except subprocess.TimeoutExpired:
                if stopping():
                    kill_group(process.pid)
                    process.wait()
                    raise Stopped from None
        if code:
            said.seek(0)
            words = "\n".join(said.read().decode(errors="replace").strip().splitlines()[-_LINES:])
            raise MeasurementError(f"{what} cannot be installed; {command[0]} says:\n{words}")


def _git(folder: Path, *words: str) -> str | None:
    """Ask git; None where it has no answer."""
    try:
        done = subprocess.run(  # noqa: S603
            ["git", "-C", str(folder), *words],  # noqa: S607
            capture_output=True,
            text=True,
            check=False,
            env=_outside(),
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _outside() -> dict[str, str]:
    """Return the environment without what does not hold for other folders and interpreters.

    git sets variables such as ``GIT_DIR`` for its hooks, which say more than its option ``-C``; pip finds packages in
    ``PYTHONPATH``.
    """
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH" and not name.startswith("GIT_")}
