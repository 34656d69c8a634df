"""How often the gate is wrong: gates of the same code, and gates of a model that was made slower.

    python benchmarks/gate_errors.py --same 200 --slower 100

The model has 40 equal layers; the slower one has 44. Every gate is a real one: fresh processes, in two environments,
that take turns. Verdicts are appended to gate_errors.jsonl, so that it can be ended and goes on.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from harness.config import BenchConfig
from harness.gate import Rules, Thresholds
from harness.gate.turns import Gate, gate_turns
from harness.launch.environments import installed
from harness.measure.environment import cpu_name
from harness.store import open_store

PACKAGE = Path(__file__).parent.parent / "tests" / "packages" / "harness-gated"
BENCHMARK = BenchConfig(backbone="layers", batch_size=8)


def make_repository(folder: Path, layers: Mapping[str, str]) -> Path:
    """Commit the package to a new repository, once for each tag, with so many layers."""
    shutil.copytree(PACKAGE, folder)
    code = folder / "harness_gated.py"
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)
    for tag, number in layers.items():
        code.write_text(re.sub("LAYERS = .*", f"LAYERS = {number}", code.read_text()))
        commit(folder, tag)
    return folder


def commit(folder: Path, tag: str) -> None:
    """Commit everything, and tag it."""
    git = ["git", "-C", str(folder), "-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
    for words in (["add", "."], ["commit", "--quiet", "-m", tag], ["tag", tag]):
        subprocess.run([*git, *words], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--same", type=int, default=20, help="gates of the same code")
    parser.add_argument("--slower", type=int, default=10, help="gates of the slower model")
    parser.add_argument("--layers", type=int, default=44, help="of the slower model; the other has 40")
    parser.add_argument("--threshold", type=float, default=5.0, help="per cent")
    parser.add_argument("--results", type=Path, default=Path(__file__).with_suffix(".jsonl"))
    arguments = parser.parse_args()
    wanted = {"base": arguments.same, "head": arguments.slower}
    with tempfile.TemporaryDirectory() as folder:
        project = make_repository(Path(folder) / "project", {"base": "40", "head": str(arguments.layers)})
        with (
            installed("base", "--base", project) as base,
            installed("base", "--head", project) as same,
            installed("head", "--head", project) as slower,
            open_store(str(Path(folder) / "benchmark.db")) as store,
        ):
            rules = Rules(Thresholds(default=arguments.threshold))
            gate = Gate([BENCHMARK], rules, store, "gate", lambda *_: None)
            for tag, head in {"base": same, "head": slower}.items():
                while len(_read(arguments.results, tag)) < wanted[tag]:
                    begin = time.perf_counter()
                    (found,) = gate_turns(gate, base, head)
                    if found.decision is None:
                        raise SystemExit(found.message)
                    row = {
                        "cpu": cpu_name(),
                        "head": tag,
                        "verdict": found.verdict,
                        "rounds": found.rounds,
                        "change": found.decision.change,
                        "low": found.decision.low,
                        "high": found.decision.high,
                        "noise": found.decision.noise,
                        "seconds": time.perf_counter() - begin,
                    }
                    with arguments.results.open("a") as file:
                        file.write(json.dumps(row) + "\n")
    for tag, what in {"base": "of the same code", "head": f"{arguments.layers / 40 - 1:+.0%} of layers"}.items():
        rows = _read(arguments.results, tag)
        if not rows:
            continue
        counts = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in ("pass", "fail", "ambiguous")}
        interval = binomtest(counts["fail"], len(rows)).proportion_ci(0.95)
        changes, seconds, rounds = (np.array([row[key] for row in rows]) for key in ("change", "seconds", "rounds"))
        print(
            f"{len(rows)} gates {what}: {counts}; fail {interval.low:.1%} to {interval.high:.1%} (95 %); "
            f"change {np.median(changes):+.1%} (median; {changes.min():+.1%} to {changes.max():+.1%}); "
            f"noise of a process {np.median([row['noise'] for row in rows]):.1%}; {np.median(seconds):.0f} s a gate "
            f"(at most {seconds.max():.0f}), {np.median(rounds):.0f} rounds (at most {rounds.max()})"
        )


def _read(path: Path, tag: str) -> list[dict]:
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [row for row in rows if row["head"] == tag]


if __name__ == "__main__":
    main()
