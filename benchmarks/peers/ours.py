"""`harness run`, in a home of its own, so nothing is decoded or computed before; it records as ever.

Latency is not measured: no peer does.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from work import Speeds, Work

work = Work.given()
stage = "frozen" if work.trainable == "head" else "finetune"
schedule = "paper" if work.batch_norm == "train" else "paper-eval-bn"
settings = [f"{stage}.epochs={work.epochs}"]
if not work.augment:
    settings += ["transform.crop=none", "transform.flip=false"]
with tempfile.TemporaryDirectory() as home:
    command = [
        sys.executable, "-m", "harness", "run", "--plugins", f"{schedule},{work.backbone}", "--weights", "random",
        "--data", f"imagefolder:{work.images}", "--stages", stage, "--precision", work.precision, "--no-latency",
        "--db", str(Path(home) / "benchmark.db"), "--json",
    ]  # fmt: skip
    command += [word for setting in settings for word in ("--set", setting)]
    told = subprocess.run(command, env={**os.environ, "HARNESS_HOME": home}, check=True, stdout=subprocess.PIPE)
((found,),) = (run["stages"] for run in json.loads(told.stdout)["runs"])
Speeds(found["epochs"][-1]["images_per_second"], found["execution"]["test_images_per_second"]).tell()
