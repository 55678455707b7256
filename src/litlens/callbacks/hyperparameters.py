"""The hyper-parameters of the run beside its final figures: TensorBoard's tab HPARAMS, W&B's table of runs."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from litlens.callbacks.provenance import Provenance

# What stands in a run's configuration and is no parameter of the experiment.
_LEFT_OUT = ("trainer.callbacks", "trainer.logger", "trainer.enable_", "model_checkpoint", "class_names")


class HyperParameters(Callback):
    """Logs them once, at the end of fit: the configuration that `Provenance` has, or else the module's `hparams`.

    TensorBoard is told which figures belong to them, by name: those of validation and, beside them, of a test
    that may follow. It takes their last values, whenever they were logged.
    """

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning's hook: all figures of fit are known, and the loggers open."""
        if not trainer.is_global_zero:
            return
        configs = [callback.config for callback in trainer.callbacks if isinstance(callback, Provenance)]  # type: ignore[attr-defined]
        values = flattened(next((config for config in configs if config), dict(pl_module.hparams)))
        validated = sorted(name for name in trainer.callback_metrics if name.endswith("/val"))
        figures = validated + [f"{name.removesuffix('val')}test" for name in validated]
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and values:
                from torch.utils.tensorboard.summary import hparams

                writer = logger.experiment._get_file_writer()
                # `logger.log_hyperparams` would log the figures again, and needs a value of a test to come.
                for summary in hparams(values, dict.fromkeys(figures, 0.0)):  # type: ignore[no-untyped-call]
                    writer.add_summary(summary)
            elif isinstance(logger, WandbLogger):
                logger.log_hyperparams(values)


def flattened(config: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """A configuration as one level of plain values: `model.optimizer` is a class's name, `model.optimizer.lr` its lr.

    What is null is left out, as is what says where a run reports to; a list is one string.
    """
    values: dict[str, bool | int | float | str] = {}

    def visit(key: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for name, inner in value.items():
                part = {"class_path": "", "init_args": ""}.get(name, name)
                visit(".".join(filter(None, (key, part))), inner)
        elif value is not None and not any(word in key for word in _LEFT_OUT):
            values[key] = value if isinstance(value, bool | int | float | str) else str(value)

    visit("", config)
    return {key: _class_name(value) for key, value in values.items()}


def _class_name(value: Any) -> Any:
    # torch.optim.adamw.AdamW, but neither 0.5 nor weights/resnet18.pth
    path = isinstance(value, str) and all(part.isidentifier() for part in value.split("."))
    return value.rpartition(".")[2] if path else value
