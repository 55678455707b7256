"""A run's newest state: when it is written, and which file a resumed run reads."""

import math
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loops.evaluation_loop import RestartStage
from lightning.pytorch.trainer.states import TrainerFn

from litlens.checkpoints.logs import written_logs
from litlens.checkpoints.reading import LAST, previous_checkpoint, read_checkpoint
from litlens.errors import UserError
from litlens.signals import signals

_SECONDS_BETWEEN_AGREEMENTS = 5.0


@dataclass(frozen=True)
class Newest:
    """The newest readable checkpoint of a run, and where it is not `last.ckpt`, a line that says why.

    Args:
        path: The file.
        step: The number of steps done.
        epochs: The number of epochs begun.
        devices: The number of devices.
        config: The run's configuration with every value resolved.
        logged: What had been logged by then, as from `written_logs`.
        splits: The checksum of splits.csv.
        note: The line.
    """

    path: Path
    step: int
    epochs: int
    devices: int | None  # recorded by the command alone, and so is the configuration
    config: dict[str, Any]
    logged: dict[str, int]
    splits: str | None = None
    note: str = ""


def newest_checkpoint(run: Path) -> Newest:
    """Find the checkpoint to resume a run from: the last one, or where that is missing or damaged, the previous one.

    Raises UserError where neither can be read.
    """
    last, previous = run / LAST, previous_checkpoint(run / LAST)
    try:
        return _read(last)
    except UserError as error:
        damage = str(error)
    if not previous.is_file():
        raise UserError(f"{damage}; there is nothing to resume: start a new run, or give another folder")
    try:
        newest = _read(previous)
    except UserError as error:
        raise UserError(f"{damage}, and {error}; there is nothing to resume: start a new run") from error
    return replace(newest, note=f"{damage}; resuming from {previous.name}, step {newest.step}")


def _read(path: Path) -> Newest:
    checkpoint = read_checkpoint(path)
    state, metadata = checkpoint["callbacks"].get(LastCheckpoint.__qualname__, {}), checkpoint["litlens"]
    if "logged" not in state:
        raise UserError(f"{path} does not say what had been logged: resume it with the version that wrote it")
    return Newest(
        path,
        step=checkpoint["global_step"],
        epochs=checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["ready"],
        devices=metadata.get("computed_on", {}).get("devices"),
        config=metadata.get("config") or {},
        logged=state["logged"],
        splits=metadata.get("splits"),
    )


class LastCheckpoint(Checkpoint):
    """Writes a run's newest state before the first step, every few minutes, at the end of every epoch and of the run.

    In training, SIGINT and SIGTERM wait, and the run is ended here, after the step, with a checkpoint. In validation
    and while images are drawn they end it at once, and the last checkpoint remains.

    It also stores the metric of a ReduceLROnPlateau: Lightning steps that schedule after the checkpoints of the epoch's
    end are written, and skips the step on resume, since it stores no metrics (`FitLoop.on_advance_end`). The metrics of
    the step and of the epoch are logged after these hooks as well, and are stored, too. Nothing is written on an
    exception: Ctrl-C may interrupt an optimizer's step.

    Args:
        folder: The run folder.
        every: The time between two checkpoints within an epoch.
    """

    def __init__(self, folder: Path, *, every: timedelta = timedelta(minutes=10)) -> None:
        self.path, self.every = folder / LAST, every
        self._saved_at = 0.0
        self._asked = False  # by a signal, to end the run
        self._validates = False  # whether a validation follows the checkpoint
        # Of several processes: the time and step of their last agreement on whether to write, and the step of the next.
        self._asked_at, self._asked_step, self._next_step = 0.0, 0, 0
        self._pending: dict[int, float] = {}  # the metric of each such schedule, by its index among the trainer's
        self._unlogged: dict[str, float] = {}  # what Lightning logs right after the checkpoint
        self._logged: dict[str, int] = {}
        self._started_at = self._seconds_before = 0.0  # of this process; of those before

    @property
    def seconds(self) -> float:
        """The seconds of the fit so far; of a resumed run, the sum over its parts."""
        return self._seconds_before + time.monotonic() - self._started_at

    def save(self, trainer: Trainer, *, unlogged: dict[str, float] | None = None) -> None:
        """Write the checkpoint. To be called in every process.

        Args:
            trainer: The trainer.
            unlogged: The metrics of the last step or epoch that it logs next.
        """
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by a connector
            with signals.held():
                self._unlogged, self._logged = unlogged or {}, written_logs(trainer)
                trainer.save_checkpoint(self.path)
                self._unlogged, self._logged = {}, {}
        self._saved_at = time.monotonic()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._started_at = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the first checkpoint, or on resume, do what follows the last one. Let signals wait."""
        self._saved_at = self._asked_at = time.monotonic()
        self._asked_step, self._next_step = trainer.global_step, trainer.global_step + 1
        for place, value in self._pending.items():
            pl_module.lr_scheduler_step(trainer.lr_scheduler_configs[place].scheduler, value)
        self._pending = {}
        self._log_unlogged(trainer)
        if self._validates:
            # Lightning would go on with the next batch. It resumes a validation in which it had saved on an exception.
            trainer.fit_loop.epoch_loop.val_loop._restart_stage = RestartStage.RESTARTED_MID_EVALUATION
            self._validates = False
        if trainer.ckpt_path is None:
            self.save(trainer)
        signals.hold()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let signals wait."""
        signals.hold()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what was unlogged where nothing is left to train, and no training started."""
        self._log_unlogged(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write a checkpoint if one is due, unless a validation or the end of the epoch follows."""
        numbers = batch_idx + 1, trainer.fit_loop.total_batch_idx + 1
        validates = any(number % (trainer.val_check_batch or math.inf) == 0 for number in numbers)
        self._asked = signals.asked(trainer)
        if trainer.is_last_batch:
            self._release()
        elif not (validates and trainer.enable_validation):
            self._save_if_due(trainer, of_a_step=True)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write a checkpoint if one is due: a run resumed from it validates first."""
        if not _validates_in_training(trainer):
            return
        self._asked = signals.asked(trainer)
        if trainer.global_step != trainer.max_steps:  # with its last step, a resumed run ends without a validation
            self._validates = True
            self._save_if_due(trainer)
            self._validates = False
        self._release()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write a checkpoint if one is due, after a validation within an epoch."""
        if _validates_in_training(trainer) and not trainer.is_last_batch:
            signals.hold()
            self._save_if_due(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the checkpoint."""
        self._pending = {
            place: float(trainer.callback_metrics[config.monitor])
            for place, config in enumerate(trainer.lr_scheduler_configs)
            if config.reduce_on_plateau and config.interval == "epoch" and config.monitor in trainer.callback_metrics
            if (trainer.current_epoch + 1) % config.frequency == 0
        }
        self.save(trainer, unlogged=_unlogged_metrics(trainer, of_epoch=True))
        self._pending = {}
        if self._asked:
            signals.leave()
        signals.release()

    def state_dict(self) -> dict[str, Any]:
        """What has not been done yet (steps of schedules, a validation, metrics to log), what has, and the seconds."""
        return {
            "pending": self._pending,
            "validates": self._validates,
            "unlogged": self._unlogged,
            "logged": self._logged,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep what has not been done until training starts."""
        self._pending, self._unlogged = state_dict["pending"], state_dict["unlogged"]
        self._validates, self._seconds_before = state_dict.get("validates", False), state_dict["seconds"]

    def _log_unlogged(self, trainer: Trainer) -> None:
        unlogged, self._unlogged = self._unlogged, {}
        for logger in trainer.loggers if unlogged else []:
            logger.log_metrics(unlogged, step=trainer.global_step - 1)

    def _release(self) -> None:
        """Let a signal end the run at once from now on, unless the next checkpoint does."""
        if not self._asked:
            signals.release()

    def _save_if_due(self, trainer: Trainer, *, of_a_step: bool = False) -> None:
        # A checkpoint contains no accumulated gradients. Lightning steps in the last batch, whatever their number.
        steps = trainer.is_last_batch or (trainer.fit_loop.batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if steps and (self._asked or self._is_due(trainer)):
            self.save(trainer, unlogged=_unlogged_metrics(trainer) if of_a_step else None)
            if self._asked:
                signals.leave()

    def _is_due(self, trainer: Trainer) -> bool:
        now, step = time.monotonic(), trainer.global_step
        due = now - self._saved_at >= self.every.total_seconds()
        if trainer.world_size == 1:
            return due
        # The first process decides for all, every few seconds: a broadcast at every step would make them wait.
        if step < self._next_step:
            return False
        pause = min(self.every.total_seconds(), _SECONDS_BETWEEN_AGREEMENTS)
        steps = int(pause * (step - self._asked_step) / (now - self._asked_at))
        due, steps = trainer.strategy.broadcast((due, max(1, steps)))
        self._asked_at, self._asked_step, self._next_step = now, step, step + steps
        return due


def _validates_in_training(trainer: Trainer) -> bool:
    return trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking


def _unlogged_metrics(trainer: Trainer, *, of_epoch: bool = False) -> dict[str, float]:
    """What Lightning logs after it has called the hooks at the end of a batch or an epoch.

    The connector is private, but no hook comes between `update_train_step_metrics` or `update_train_epoch_metrics` and
    the next step (lightning/pytorch/loops/training_epoch_loop.py and fit_loop.py).
    """
    connector = trainer._logger_connector
    if not (of_epoch or connector.should_update_logs):
        return {}
    metrics = {name: float(value) for name, value in connector.metrics["log"].items()}
    return {**metrics, "epoch": trainer.current_epoch} if metrics else {}
