"""Where and how time is measured: the device, the clock, and the seconds of a run's epochs."""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

SEED = 0
GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
Row = dict[str, Any]


def now() -> float:
    """Seconds, once the GPU has done what it was given."""
    if GPU:
        torch.cuda.synchronize()
    return time.perf_counter()


def median_seconds(run: Callable[[], object], *, repeats: int) -> float:
    """The median over some calls, after three to warm up."""
    seconds = []
    for repeat in range(repeats + 3):
        start = now()
        run()
        if repeat >= 3 or repeats == 1:
            seconds.append(now() - start)
    return statistics.median(seconds)


class Skipped(Exception):  # noqa: N818  (not an error)
    """Why a row is not measured."""


class Stopwatch(Callback):
    """Write the seconds of every epoch, of its training part, and from the first step to the last, to a file."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)
        self.epochs: list[dict[str, float]] = []
        self._start = self._trained = self._first = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Start the watch of all steps."""
        self._first = self._first or now()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start an epoch's watch, which ends the one before."""
        self._start = now()
        if self.epochs:
            self.epochs[-1]["whole"] = self._start - self.epochs[-1].pop("start")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Stop the training part's watch at the last batch."""
        if trainer.is_last_batch:
            self._trained = now()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the training part."""
        self.epochs.append({"training": self._trained - self._start, "start": self._start})

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the last epoch's watch, and write."""
        self.epochs[-1]["whole"] = now() - self.epochs[-1].pop("start")
        seconds = self._trained - self._first  # from the first step to the last
        self.file.write_text(json.dumps({"epochs": self.epochs, "seconds": seconds}), encoding="utf-8")
