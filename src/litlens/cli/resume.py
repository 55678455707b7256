"""Resuming an interrupted run: from its own config and its last checkpoint, in its folder."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from torch import Tensor

from litlens.callbacks.run_metadata import flattened
from litlens.checkpoints.last import Newest
from litlens.checkpoints.reading import read_checkpoint
from litlens.cli.run_folder import ASSIGNMENT, CONFIG, parent_run, write_config
from litlens.data.assignment import SplitAssignment
from litlens.data.module import ImageDataModule
from litlens.errors import UserError, listed, quoted


def resumed_folder(name: str) -> Path:
    """The run folder that `--resume RUN_DIR` names; of a fold, that of all folds.

    Raises UserError where it is not one.
    """
    folder = parent_run(Path(name))
    if not (folder / CONFIG).is_file():
        raise UserError(f"--resume: there is no {folder / CONFIG}: give the folder of a run")
    return folder


def keep_splits(data: ImageDataModule, folder: Path, *, class_names: list[str] | None) -> None:
    """Let the data keep the splits of the run in `folder`. Raises UserError where they have other classes by now."""
    if class_names not in (None, data.class_names):
        before, now = listed(class_names or []), listed(data.class_names)
        raise UserError(
            f"data: the run has the classes {before}, the data have {now}: restore them, or {_otherwise(folder)}"
        )
    data.keep_splits(_splits(folder))


def check_splits(newest: Newest, folder: Path) -> None:
    """Raise UserError where splits.csv is not the table that the run was trained with."""
    _splits(folder).check(newest.splits, folder / ASSIGNMENT)


def _splits(folder: Path) -> SplitAssignment:
    return SplitAssignment.read(folder / ASSIGNMENT, otherwise=_otherwise(folder))


def _otherwise(folder: Path) -> str:
    return f"start a new run from its weights: --config {quoted(folder / CONFIG)} --model.init_from {quoted(folder)}"


def check_resumption(trainer: Trainer, newest: Newest, config: dict[str, Any]) -> None:
    """Raise UserError where a run cannot be resumed exactly with the trainer's settings and its new configuration."""
    if newest.step < trainer.max_steps:
        # `FitLoop.restarting` mistakes such a run for one that stopped within its epoch, and ends the epoch twice.
        raise UserError(
            f"trainer.max_steps: {trainer.max_steps}: a run is resumed exactly by epochs only: "
            "add --trainer.max_steps=-1 --trainer.max_epochs=N"
        )
    given, done = {"max_steps": trainer.max_steps, "max_epochs": trainer.max_epochs}, (newest.step, newest.epochs)
    for (name, limit), begun in zip(given.items(), done, strict=True):
        if limit is not None and -1 < limit < begun:
            raise UserError(f"trainer.{name}: {limit}: the run has begun {begun} already: give {begun} or more")
    before, now = (_restored(each["model"]["init_args"]) for each in (newest.config, config))
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            raise UserError(
                f"{key}: {now.get(key)} instead of {before.get(key)}: a resumed run keeps its optimizer and schedule: "
                "remove it, or start a new run from the weights by --model.init_from RUN_DIR"
            )


def _restored(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a classifier whose effect is in the optimizer's state, and so in the checkpoint."""
    names = ("optimizer", "lr_scheduler", "lr_scales", "lr_depth_decay")
    return flattened({"model": {name: options[name] for name in names if name in options}})


class Resumption(Callback):
    """Corrects what Lightning's own callbacks get wrong on resume.

    Args:
        config: The run's configuration, which the shell may have changed, say to more epochs.
        folder: The run folder.
    """

    def __init__(self, config: dict[str, Any], *, folder: Path) -> None:
        self.config, self.folder = config, folder
        self._metrics: dict[str, Tensor] = {}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Correct the paths that the checkpoint callbacks stored, where the folder was moved or renamed.

        With another folder they would forget the best score, and the next epoch would be the best
        (`ModelCheckpoint.load_state_dict`). It is, where the best checkpoint was removed. Raises UserError where that
        file is damaged: at the end of the run, there would be nothing to test.

        Also keep the last values of all metrics, and of the one that is monitored, which Lightning does not restore.
        """
        metrics = checkpoint["litlens"]["metrics"].items()
        self._metrics = {name: torch.tensor(value, dtype=torch.float64) for name, value in metrics}
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
            callback.current_score = state["current_score"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write config.yaml, which nothing has refused, and stop again where early stopping had ended the run.

        Lightning restores its counters, but not its decision.
        """
        self._restore_metrics(trainer)
        if trainer.is_global_zero:
            write_config(self.folder, self.config)
        # Not by `stopped_epoch`, which is 0 for a stop in epoch 0 and for none.
        if any(
            stopping.stopping_reason is not EarlyStoppingReason.NOT_STOPPED
            for stopping in trainer.early_stopping_callbacks
        ):
            trainer.should_stop = True

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the metrics for what is logged at the end where nothing was left to train."""
        self._restore_metrics(trainer)

    def _restore_metrics(self, trainer: Trainer) -> None:
        # Not earlier: Lightning drops them after the sanity check.
        metrics, self._metrics = self._metrics, {}
        trainer.callback_metrics.update(metrics)


def _moved(path: str, callback: ModelCheckpoint) -> str:
    return str(Path(str(callback.dirpath)) / Path(path).name) if path else path
