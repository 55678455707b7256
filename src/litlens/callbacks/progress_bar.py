"""The progress bar of the commands: one line of 80 columns with images per second and the time left of the run."""

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import CustomBarColumn
from rich.progress import ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text
from torch import Tensor


class ImageProgressBar(RichProgressBar):
    """Lightning's bar; in training its time left is that of all epochs, with validation, as long as none ends the run.

    Of the metrics for the bar it shows the accuracies where there are any, by the name of their split: `val 0.983`.
    """

    def __init__(self) -> None:
        super().__init__(refresh_rate=10)
        self.images = 0  # in a batch, on all devices
        self.metrics = ""
        self._start = (0.0, 0)  # of this process: its time, and the batches before

    def configure_columns(self, trainer: Trainer) -> list[Any]:
        """Description and bar, and everything else in one column that is cut off at the edge."""
        return [TextColumn("{task.description}"), CustomBarColumn(bar_width=10), _Status(self, trainer)]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._start = time.monotonic(), trainer.fit_loop.epoch_loop.total_batch_idx + 1

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.images = _number_of(batch) * trainer.world_size

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Lightning's collects the metrics in every step, for a bar that it draws in every tenth.
        if (batch_idx + 1) % self.refresh_rate == 0 or trainer.is_last_batch:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        super().on_validation_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)
        self.images = _number_of(batch) * trainer.world_size

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        super().on_test_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)
        self.images = _number_of(batch) * trainer.world_size

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Keep the metrics for the column of this bar; Lightning's own breaks them into lines."""
        shown = super().get_metrics(trainer, pl_module)
        of_splits = {name.removeprefix("accuracy/"): shown[name] for name in shown if name.startswith("accuracy/")}
        values = (of_splits or shown).items()
        self.metrics = " ".join(f"{name} {v:.3f}" if isinstance(v, float) else f"{name} {v}" for name, v in values)
        return {}

    def seconds_left(self, trainer: Trainer, task: Task) -> float | None:
        """Of the run where the batches are those of training, by this process so far; elsewhere of the split."""
        batches, epochs = trainer.num_training_batches, trainer.max_epochs or -1
        done = trainer.fit_loop.epoch_loop.total_batch_idx + 1
        began, before = self._start
        if task.id != self.train_progress_bar_id or batches == float("inf") or epochs < 0:
            return None if task.finished else task.time_remaining
        return (time.monotonic() - began) / (done - before) * (epochs * batches - done) if done > before else None


class _Status(ProgressColumn):
    """`12/33 4,210 img/s 0:01:20 left val 0.983`."""

    def __init__(self, bar: ImageProgressBar, trainer: Trainer) -> None:
        super().__init__(Column(no_wrap=True, overflow="ellipsis"))
        self.bar, self.trainer = bar, trainer

    def render(self, task: Task) -> Text:
        """Describe the batches of one split."""
        parts = [f"{int(task.completed)}/{task.total:g}"]
        if task.speed and self.bar.images and not task.finished:
            parts.append(f"{task.speed * self.bar.images:,.0f} img/s")
        if (left := self.bar.seconds_left(self.trainer, task)) is not None:
            parts.append(f"{timedelta(seconds=round(left))} left")
        if task.id == self.bar.train_progress_bar_id and self.bar.metrics:
            parts.append(self.bar.metrics)
        return Text("  ".join(parts))


def _number_of(batch: Any) -> int:
    """The length of the first tensor in a batch; 0 where there is none."""
    while isinstance(batch, Mapping | Sequence) and not isinstance(batch, str) and len(batch):
        batch = next(iter(batch.values() if isinstance(batch, Mapping) else batch))
    return len(batch) if isinstance(batch, Tensor) and batch.ndim else 0
