"""Metadata of a run: provenance in every checkpoint, hyper-parameters next to the final metrics."""

import os
import pickle
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger

from litlens.callbacks.live.drawing import show_scalars
from litlens.callbacks.tensorboard import new_tensorboards, tensorboards
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
    """Logs hyper-parameters once, for TensorBoard's tab HPARAMS and W&B's table of runs, and the configuration as text.

    They are the configuration that `Provenance` has, or else the module's `hparams`; network, optimizer, learning rate,
    epochs and batch size come first. Next to them are the validation metrics of the best checkpoint, `best/NAME/val`,
    and the metrics of a later test. Without such a checkpoint they are the last epoch's, `NAME/val`.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the configuration into TensorBoard's tab TEXT."""
        text = yaml.safe_dump(_config(trainer), sort_keys=False, allow_unicode=True)
        for logger in new_tensorboards(trainer) if _config(trainer) else []:
            logger.experiment.add_text("config", f"```yaml\n{text}```", 0)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log when all metrics of fit are known and the loggers are still open."""
        if not trainer.is_global_zero:
            return
        known = flattened(_config(trainer) or dict(pl_module.hparams))
        values = _first(trainer, pl_module, known) | {key: known[key] for key in known if key not in _AMONG_FIRST}
        best = {name: value for name, value in _best_metrics(trainer).items() if name.endswith("/val")}
        show_scalars(trainer, {f"best/{name}": value for name, value in best.items()})
        validated = sorted(best or [name for name in trainer.callback_metrics if name.endswith("/val")])
        shown = [f"best/{name}" if best else name for name in validated]
        shown += [f"{name.removesuffix('val')}test" for name in validated]
        for board in tensorboards(trainer):
            _add_hyperparameters(board.experiment._get_file_writer(), values, shown)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_hyperparams(values)


def _config(trainer: Trainer) -> dict[str, Any]:
    configs = [callback.config for callback in trainer.callbacks if isinstance(callback, Provenance)]  # type: ignore[attr-defined]
    return next((config for config in configs if config), {})


_FIRST = ("network", "optimizer", "learning_rate", "epochs", "batch_size")
# The same in the configuration.
_AMONG_FIRST = ("model.network", "model.optimizer", "model.optimizer.lr", "trainer.max_epochs", "data.batch_size")


def _first(trainer: Trainer, module: LightningModule, known: Mapping[str, Any]) -> dict[str, Any]:
    """What people compare runs by; from the objects, since a configuration need not name a default."""
    network = known.get("model.network", type(getattr(module, "network", module)).__name__)
    optimizer = next(iter(trainer.optimizers), None)
    first = {
        "network": " ".join(filter(None, (network, known.get("model.network.backbone")))),
        "optimizer": type(optimizer).__name__ if optimizer is not None else None,
        "learning_rate": optimizer.defaults.get("lr") if optimizer is not None else None,
        "epochs": trainer.max_epochs,
        "batch_size": getattr(getattr(trainer, "datamodule", None), "batch_size", None),
    }
    return {key: value for key, value in first.items() if value is not None}


def _best_metrics(trainer: Trainer) -> dict[str, float]:
    """The metrics that `Provenance` has put into the best checkpoint, where there is one."""
    path = Path(getattr(trainer.checkpoint_callback, "best_model_path", ""))
    if not path.is_file():
        return {}
    with suppress(pickle.UnpicklingError):  # somebody's checkpoint may hold classes
        checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        metrics: dict[str, float] = checkpoint.get("litlens", {}).get("metrics", {})
        return metrics
    return {}


def _add_hyperparameters(writer: Any, values: dict[str, Any], metrics: list[str]) -> None:
    """Write the three summaries of the tab HPARAMS.

    `TensorBoardLogger.log_hyperparams` uses the same private writer, but would log the metrics again, and needs values
    of a test that has not run yet.
    """
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
    from torch.utils.tensorboard.summary import hparams

    experiment, start, end = hparams(values, dict.fromkeys(metrics, 0.0))  # type: ignore[no-untyped-call]
    data = experiment.value[0].metadata.plugin_data
    described = HParamsPluginData.FromString(data.content)
    for info in described.experiment.hparam_infos:
        # Columns are sorted by this mark, then by name (tensorboard/plugins/hparams/backend_context.py).
        info.differs = info.name in _FIRST
    data.content = described.SerializeToString()
    for summary in (experiment, start, end):
        writer.add_summary(summary)


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
