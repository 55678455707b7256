"""Going on with a run that was interrupted: its own config, its last checkpoint, its folder and its metrics."""

import csv
import io
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.loggers import CSVLogger

from litlens.cli.run_folder import CONFIG, METRICS, write_config
from litlens.errors import UserError
from litlens.files import write_atomically


def resumed_folder(name: str) -> Path:
    """The run folder that `--resume RUN_DIR` names. Raises UserError where nothing in it can go on."""
    folder = Path(name)
    if not (folder / CONFIG).is_file():
        raise UserError(f"--resume: there is no {folder / CONFIG}, so nothing to go on from: name a run folder")
    return folder


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


def keep_metrics(trainer: Trainer, *, folder: Path, step: int) -> None:
    """Write metrics.csv again as it was before `step`; the logger deletes the file when it opens the folder.

    See `_check_log_dir_exists` in lightning/fabric/loggers/csv_logs.py.
    """
    path = folder / METRICS
    loggers = [logger for logger in trainer.loggers if isinstance(logger, CSVLogger)]
    if not (path.is_file() and loggers and trainer.is_global_zero):
        return
    kept = io.StringIO(newline="")
    with path.open(newline="") as file:
        rows = csv.DictReader(file)
        table = csv.DictWriter(kept, fieldnames=list(rows.fieldnames or []))
        table.writeheader()
        table.writerows(row for row in rows if int(row["step"]) < step)
    for logger in loggers:
        logger.experiment.metrics_keys = list(table.fieldnames)
    write_atomically(path, kept.getvalue())
