"""Two processes: one run folder, every sample counted once, and the metrics of one process."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from litlens.cli.replay import replay

ROOT = Path(__file__).resolve().parents[2]


def evaluated(run: Path, *options: str) -> dict[str, Any]:
    command = [sys.executable, str(ROOT / "evaluate.py"), "--ckpt_path", str(run), "--accelerator=cpu", *options]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    results: dict[str, Any] = json.loads((run / "results.json").read_text())
    return results


@pytest.mark.skipif(sys.platform == "win32", reason="gloo's processes are tested where they are used")
def test_two_processes_keep_one_run_and_count_each_sample_once(tmp_path: Path) -> None:
    command = [
        *(sys.executable, str(ROOT / "train.py"), "--config", str(ROOT / "configs" / "digits_cnn.yaml")),
        *("--devices", "2", "--trainer.accelerator=cpu", "--trainer.max_epochs=2"),
        *("--trainer.enable_progress_bar=false", "--data.batch_size=16", "--trainer.log_every_n_steps=1"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LITLENS_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, env=environment)
    assert "batches of 16 on 2 device(s), 32 per step" in done.stdout
    (run,) = (tmp_path / "runs" / "digits_cnn").iterdir()
    results = json.loads((run / "results.json").read_text())
    assert results["n_test"] == 359
    # The first step after the first epoch's checkpoint, on the first device, dropout included.
    with (run / "metrics.csv").open(newline="") as file:
        logged = {row["step"]: row["loss/train_step"] for row in csv.DictReader(file) if row["loss/train_step"]}
    assert replay(run, 33).loss == float(logged["33"])
    together = (run / "predictions-test.csv").read_text().splitlines()
    alone = evaluated(run)
    assert alone["accuracy_test"] == results["accuracy_test"]
    assert alone["loss_test"] == pytest.approx(results["loss_test"], abs=1e-6)
    named = [
        [line.split(",")[:3] for line in lines]
        for lines in (together, (run / "predictions-test.csv").read_text().splitlines())
    ]
    assert named[0] == named[1]  # name, label and predicted class of every sample, in the order of the split
    assert len({name for name, *_ in named[0][1:]}) == 359
