"""`harness run`, in a home of its own, so nothing is decoded or computed before; it records as ever."""

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
options = {f"{stage}.epochs": work.epochs, "data.path": work.images}
if not work.augment:
    options |= {"transform.crop": "none", "transform.flip": "false"}
with tempfile.TemporaryDirectory() as home:
    harness = [sys.executable, "-m", "harness"]
    database = ["--db", str(Path(home) / "benchmark.db")]
    settings = [word for key, value in options.items() for word in ("--set", f"{key}={value}")]
    command = [
        *harness, "run", "--plugins", f"{schedule},{work.backbone}", "--weights", "random", "--data", "imagefolder",
        "--stages", stage, "--precision", work.precision, *settings, *database,
    ]  # fmt: skip
    environment = {**os.environ, "HARNESS_HOME": home}
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    shown = subprocess.run(
        [*harness, "runs", "show", "1", "--json", *database], env=environment, check=True, capture_output=True
    )
(found,) = json.loads(shown.stdout)["stages"]
epochs = found["epochs"]
train = len(epochs) / sum(1 / epoch["images_per_second"] for epoch in epochs)
Speeds(train, found["execution"]["test_images_per_second"]).tell()
