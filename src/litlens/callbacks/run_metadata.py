"""Metadata of a run: provenance in every checkpoint, hyper-parameters next to the final metrics."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from litlens.checkpoints.provenance import git_state, hardware, versions

# Keys of a run's configuration that are not parameters of the experiment.
_LEFT_OUT = ("trainer.callbacks", "trainer.logger", "trainer.enable_", "model_checkpoint", "class_names")


class Provenance(Callback):
    """Adds config, preprocessing, versions, code and data to the checkpoint's key `litlens`.

    Args:
        config: The run's configuration with every value resolved, as plain values.
    """

    def __init__(self, config: dict[str, Any] | None = None) -> None:
        self.config = config
        self._known: dict[str, Any] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Collect once what is constant in a run; the data have been set up by now."""
        data: Any = getattr(trainer, "datamodule", None)
        self._known = {
            "config": self.config,
            "seed": int(os.environ["PL_GLOBAL_SEED"]) if "PL_GLOBAL_SEED" in os.environ else None,
            "versions": versions(),
            "git": git_state(type(getattr(pl_module, "network", pl_module)), type(data), type(pl_module)),
            # What the last bits of a result depend on, besides the weights.
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
        if hasattr(data, "assignment"):
            self._known["splits"] = data.assignment().checksum

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the metadata, with the validation metrics of this checkpoint."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        checkpoint.setdefault("litlens", {}).update(self._known, metrics=metrics, epoch=trainer.current_epoch)


class HyperParameters(Callback):
    """Logs hyper-parameters once, at the end of fit, for TensorBoard's tab HPARAMS and W&B's table of runs.

    They are the configuration that `Provenance` has, or else the module's `hparams`. TensorBoard shows next to them the
    last values of the validation metrics, and of those of a later test.
    """

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log when all metrics of fit are known and the loggers are still open."""
        if not trainer.is_global_zero:
            return
        configs = [callback.config for callback in trainer.callbacks if isinstance(callback, Provenance)]  # type: ignore[attr-defined]
        values = flattened(next((config for config in configs if config), dict(pl_module.hparams)))
        validated = sorted(name for name in trainer.callback_metrics if name.endswith("/val"))
        metrics = validated + [f"{name.removesuffix('val')}test" for name in validated]
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and values:
                from torch.utils.tensorboard.summary import hparams

                writer = logger.experiment._get_file_writer()
                # `logger.log_hyperparams` uses the same private writer, but would log the metrics again, and needs
                # values of a test that has not run yet.
                for summary in hparams(values, dict.fromkeys(metrics, 0.0)):  # type: ignore[no-untyped-call]
                    writer.add_summary(summary)
            elif isinstance(logger, WandbLogger):
                logger.log_hyperparams(values)


def flattened(config: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """A configuration as one level of plain values: `model.optimizer` is a class's name, `model.optimizer.lr` its lr.

    Nulls and the settings of callbacks and loggers are left out; a list becomes one string.
    """
    values: dict[str, bool | int | float | str] = {}

    def visit(key: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for name, inner in value.items():
                part = {"class_path": "", "init_args": ""}.get(name, name)
                visit(".".join(filter(None, (key, part))), inner)
        elif isinstance(value, torch.nn.Module):  # in a module's saved hyper-parameters
            values[key] = type(value).__name__
        elif value is not None and not any(word in key for word in _LEFT_OUT):
            values[key] = value if isinstance(value, bool | int | float | str) else str(value)

    visit("", config)
    return {key: _class_name(value) for key, value in values.items()}


def _class_name(value: Any) -> Any:
    # torch.optim.adamw.AdamW, but neither 0.5 nor weights/resnet18.pth
    path = isinstance(value, str) and all(part.isidentifier() for part in value.split("."))
    return value.rpartition(".")[2] if path else value
