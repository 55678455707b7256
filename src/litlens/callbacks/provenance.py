"""Writes into every checkpoint what rebuilds and explains it: config, preprocessing, versions, code and data."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from litlens.checkpoints.provenance import git_state, hardware, versions


class Provenance(Callback):
    """Adds to the checkpoint's key `litlens` what the classifier itself does not know.

    Args:
        config: The run's configuration with every value resolved, as plain values.
    """

    def __init__(self, config: dict[str, Any] | None = None) -> None:
        self.config = config
        self._known: dict[str, Any] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather what stays the same over the run, once; the data have been set up by now."""
        data: Any = getattr(trainer, "datamodule", None)
        self._known = {
            "config": self.config,
            "seed": int(os.environ["PL_GLOBAL_SEED"]) if "PL_GLOBAL_SEED" in os.environ else None,
            "versions": versions(),
            "git": git_state(Path.cwd()),
            # What a result to the last bit depends on, besides the weights.
            "computed_on": {
                "hardware": hardware(trainer.strategy.root_device, number=trainer.world_size),
                "threads": torch.get_num_threads(),
                "devices": trainer.world_size,
                "precision": str(trainer.precision),
                "batch_size": getattr(data, "batch_size", None),
            },
        }
        if hasattr(data, "preprocessing"):
            self._known["preprocessing"] = data.preprocessing.to_dict()
        if hasattr(data, "fingerprint"):
            self._known["data"] = data.fingerprint()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Lightning's hook: add to the file that is about to be written."""
        # The figures at this moment, so that a checkpoint says how good it was on validation.
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        checkpoint.setdefault("litlens", {}).update(self._known, metrics=metrics, epoch=trainer.current_epoch)
