"""Resuming an interrupted run: from its own config and its last checkpoint, in its folder, with its metrics."""

import csv
import io
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.loggers import CSVLogger

from litlens.checkpoints.reading import read_checkpoint
from litlens.cli.run_folder import ASSIGNMENT, CONFIG, METRICS, write_config
from litlens.data.assignment import SplitAssignment
from litlens.data.module import ImageDataModule
from litlens.errors import UserError, listed
from litlens.files import write_atomically


def resumed_folder(name: str) -> Path:
    """The run folder that `--resume RUN_DIR` names. Raises UserError where it is not one."""
    folder = Path(name)
    if not (folder / CONFIG).is_file():
        raise UserError(f"--resume: there is no {folder / CONFIG}: give the folder of a run")
    return folder


def keep_splits(data: ImageDataModule, folder: Path, *, class_names: list[str] | None) -> None:
    """Let the data keep the splits of the run in `folder`. Raises UserError where they have other classes by now."""
    otherwise = f"start a new run from its weights: --config {folder / CONFIG} --model.init_from {folder}"
    if class_names not in (None, data.class_names):
        before, now = listed(class_names or []), listed(data.class_names)
        raise UserError(f"data: the run has the classes {before}, the data have {now}: restore them, or {otherwise}")
    data.keep_splits(SplitAssignment.read(folder / ASSIGNMENT, otherwise=otherwise))


def check_resumption(trainer: Trainer, step: int) -> None:
    """Raise UserError where a run that stopped after `step` cannot be resumed exactly with the trainer's settings."""
    if step < trainer.max_steps:
        # `FitLoop.restarting` mistakes such a run for one that stopped within its epoch, and ends the epoch twice.
        raise UserError(
            f"trainer.max_steps: {trainer.max_steps}: a run is resumed exactly by epochs only: "
            "add --trainer.max_steps=-1 --trainer.max_epochs=N"
        )


class Resumption(Callback):
    """Corrects what Lightning's own callbacks get wrong on resume.

    Args:
        config: The run's configuration, which the shell may have changed, say to more epochs.
        folder: The run folder.
    """

    def __init__(self, config: dict[str, Any], *, folder: Path) -> None:
        self.config, self.folder = config, folder

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Correct the paths that the checkpoint callbacks stored, where the folder was moved or renamed.

        With another folder they would forget the best score, and the next epoch would be the best
        (`ModelCheckpoint.load_state_dict`). It is, where the best checkpoint was removed. Raises UserError where that
        file is damaged: at the end of the run, there would be nothing to test.
        """
        for callback in trainer.checkpoint_callbacks:
            state = checkpoint["callbacks"].get(callback.state_key)
            if state is None or not isinstance(callback, ModelCheckpoint):
                continue
            if state["dirpath"] != callback.dirpath:
                state["dirpath"] = callback.dirpath
                for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
                    state[name] = _moved(state[name], callback)
                scores = state["best_k_models"].items()
                state["best_k_models"] = {_moved(path, callback): score for path, score in scores}
            best = Path(state["best_model_path"])
            if best.is_file():
                try:
                    read_checkpoint(best)
                except UserError as error:
                    raise UserError(f"--resume: {error}; remove it, and the best of the next epochs is kept") from error
            else:
                state |= {
                    "best_model_score": None,
                    "best_model_path": "",
                    "kth_best_model_path": "",
                    "best_k_models": {},
                }

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write config.yaml, which nothing has refused, and stop again where early stopping had ended the run.

        Lightning restores its counters, but not its decision.
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
    """Restore metrics.csv as it was before `step`: the logger deletes the file when it opens the folder.

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
