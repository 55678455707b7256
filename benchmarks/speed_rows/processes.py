"""Two processes by DDP on the cores of one, the command on both sides."""

import argparse
import json
import statistics
import tempfile
import uuid
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from on_gpu.timing import now
from speed_rows.commands import TRAIN, python
from speed_rows.row import Row

STEP = 64  # images on all processes
WARM_UP, STEPS = 20, 100


def processes(options: argparse.Namespace) -> list[Row]:
    """Steps of MnistCNN in bf16: one process, two that know nothing of each other as the ceiling, and two by DDP."""
    repeats = 1 if options.quick else 3
    arguments = [TRAIN, "--data=MNISTDataModule", f"--data.root={options.data}", "--model=ImageClassifier"]
    arguments += ["--model.network=MnistCNN", "--trainer.precision=bf16-mixed", "--trainer.accelerator=cpu"]
    if options.quick:
        arguments += ["--trainer.fast_dev_run=true"]
    else:
        limits = {"train": WARM_UP + STEPS, "val": 1, "test": 1}
        arguments += [f"--trainer.limit_{split}_batches={limit}" for split, limit in limits.items()]
    arguments += ["--trainer.max_epochs=1", "--trainer.callbacks=speed_rows.processes.StepSeconds"]
    arguments += [f"--trainer.callbacks.first={0 if options.quick else WARM_UP}"]
    half = [*arguments, f"--data.batch_size={STEP // 2}"]
    ddp = [] if options.quick else ["--devices=2", "--trainer.strategy=ddp"]
    sides = {"one": [*arguments, f"--data.batch_size={STEP}"], "two": half, "ddp": [*half, *ddp]}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            with tempfile.TemporaryDirectory() as folder:
                # Lightning shares the cores among its processes only where this is not set.
                threads = options.threads if name == "one" else max(1, options.threads // 2)
                python(options, Path(folder), side, processes=2 if name == "two" else 1, threads=threads)
                found = [json.loads(path.read_text()) for path in Path(folder).glob("seconds-*.json")]
                seconds[name].append(statistics.mean(found))
    ceiling = statistics.median(a / b for a, b in zip(seconds["one"], seconds["two"], strict=True))
    ratio = statistics.median(a / b for a, b in zip(seconds["one"], seconds["ddp"], strict=True))
    what = "step of MnistCNN, bf16, two processes of 32 by DDP, against one of 64 on the same cores; to reach 0.95 of "
    ours, theirs = (statistics.median(seconds[name]) for name in ("ddp", "one"))
    return [Row(f"{what}two independent processes", ours, theirs, ratio, f"at least {0.95 * ceiling:.3f}", repeats)]


class StepSeconds(Callback):
    """Write the mean seconds of a step from one on."""

    def __init__(self, first: int) -> None:
        self.first, self._start = first, 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the watch."""
        if batch_idx == self.first:
            self._start = now()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop it, in every process."""
        if trainer.is_last_batch:
            seconds = (now() - self._start) / (batch_idx + 1 - self.first)
            Path(f"seconds-{uuid.uuid4().hex}.json").write_text(json.dumps(seconds), encoding="utf-8")
