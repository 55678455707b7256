"""Going on with a run that was interrupted: its own config, its last checkpoint, its folder and its metrics."""

import csv
import io
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.loggers import CSVLogger

from litlens.checkpoints.reading import read_checkpoint
from litlens.cli.run_folder import CONFIG, LAST, METRICS, write_config
from litlens.errors import UserError
from litlens.files import write_atomically


def resumed_folder(name: str) -> Path:
    """The run folder that `--resume RUN_DIR` names. Raises UserError where nothing in it can go on."""
    folder = Path(name)
    for needed in (folder / CONFIG, folder / LAST):
        if not needed.is_file():
            raise UserError(f"--resume: there is no {needed}, so nothing to go on from: name a run folder")
    return folder


class LastCheckpoint(ModelCheckpoint):
    """Writes a run's newest state at the end of every epoch, and with it what ReduceLROnPlateau is yet to be told.

    Lightning steps such a scheduler after the checkpoints of the epoch's end are written, and does not make up for it
    where a run goes on, since it keeps no metrics (`FitLoop.on_advance_end`). `save_last` of the group's own would
    write only when the best one is written. Nothing is written on an exception: Ctrl-C may come in the middle of an
    optimizer's step. A class of its own also because Lightning tells two of one class apart by what they watch.

    Args:
        folder: Where the run is kept.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / LAST
        super().__init__(path.parent, filename=path.stem, enable_version_counter=False, save_on_train_epoch_end=True)
        self._untold: dict[int, float] = {}  # what each such scheduler watches, by its place among the trainer's

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the checkpoint."""
        self._untold = {
            place: float(trainer.callback_metrics[config.monitor])
            for place, config in enumerate(trainer.lr_scheduler_configs)
            if config.reduce_on_plateau and config.interval == "epoch" and config.monitor in trainer.callback_metrics
            if (trainer.current_epoch + 1) % config.frequency == 0
        }
        super().on_train_epoch_end(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make up for the step where a run goes on."""
        super().on_train_start(trainer, pl_module)
        for place, value in self._untold.items():
            pl_module.lr_scheduler_step(trainer.lr_scheduler_configs[place].scheduler, value)
        self._untold = {}

    def state_dict(self) -> dict[str, Any]:
        """Lightning's, and what is untold."""
        return {**super().state_dict(), "untold": self._untold}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over both."""
        super().load_state_dict(state_dict)
        self._untold = state_dict.get("untold", {})


class Resumption(Callback):
    """Lets a run go on as if it had not stopped, in what Lightning's own callbacks make otherwise of it.

    Args:
        config: The run's configuration, which the shell may have changed, say to more epochs.
        folder: Where the run is kept.
    """

    def __init__(self, config: dict[str, Any], *, folder: Path) -> None:
        self.config, self.folder = config, folder

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Tell the checkpoint callbacks of a folder that was moved or renamed where their files are now.

        In another folder they forget the best score, and the next epoch would be the best
        (`ModelCheckpoint.load_state_dict`).
        """
        for callback in trainer.checkpoint_callbacks:
            state = checkpoint["callbacks"].get(callback.state_key)
            if state is None or not isinstance(callback, ModelCheckpoint) or state["dirpath"] == callback.dirpath:
                continue
            state["dirpath"] = callback.dirpath
            for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
                state[name] = _moved(state[name], callback)
            state["best_k_models"] = {_moved(path, callback): score for path, score in state["best_k_models"].items()}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train no further where early stopping had ended the run: its counters travel, its decision does not.

        The configuration holds from here on: nothing has refused it.
        """
        if trainer.is_global_zero:
            write_config(self.folder, self.config)
        # Not by `stopped_epoch`, which is 0 for a stop in epoch 0 and for none.
        if any(
            stopping.stopping_reason is not EarlyStoppingReason.NOT_STOPPED
            for stopping in trainer.early_stopping_callbacks
        ):
            trainer.should_stop = True


def _moved(path: str, callback: ModelCheckpoint) -> str:
    return str(Path(str(callback.dirpath)) / Path(path).name) if path else path


def keep_metrics(trainer: Trainer, *, folder: Path) -> None:
    """Write metrics.csv again as it was at the last checkpoint; the logger deletes the file when it opens the folder.

    See `_check_log_dir_exists` in lightning/fabric/loggers/csv_logs.py.
    """
    path = folder / METRICS
    loggers = [logger for logger in trainer.loggers if isinstance(logger, CSVLogger)]
    if not (path.is_file() and loggers and trainer.is_global_zero):
        return
    step = read_checkpoint(folder / LAST)["global_step"]
    kept = io.StringIO(newline="")
    with path.open(newline="") as file:
        rows = csv.DictReader(file)
        table = csv.DictWriter(kept, fieldnames=list(rows.fieldnames or []))
        table.writeheader()
        table.writerows(row for row in rows if int(row["step"]) < step)
    for logger in loggers:
        logger.experiment.metrics_keys = list(table.fieldnames)
    write_atomically(path, kept.getvalue())
