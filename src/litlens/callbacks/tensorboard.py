"""TensorBoard's logger, and what is written into a run's event file once."""

from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from litlens.errors import quoted


class TensorBoard(TensorBoardLogger):
    """Lightning's logger without the chart of `epoch`, which Lightning adds to every metric."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log the metrics, but not the epoch."""
        super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)


def tensorboards(trainer: Trainer) -> list[TensorBoardLogger]:
    """The loggers of TensorBoard; none on a rank other than zero."""
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero]


def new_tensorboards(trainer: Trainer) -> list[TensorBoardLogger]:
    """Those whose folder has no event file of an earlier process: a resumed run has what is written once."""
    return [
        logger
        for logger in tensorboards(trainer)
        if len(list(Path(logger.experiment.log_dir).glob("events.out.tfevents.*"))) <= 1
    ]


def tensorboard_command(trainer: Trainer, runs: Path) -> str:
    """The command that shows the runs of a folder, with every image of a tag; empty without a logger of TensorBoard.

    TensorBoard keeps ten by default, and none for `images=0`.
    """
    return f"tensorboard --logdir {quoted(runs)} --samples_per_plugin images=1000" if tensorboards(trainer) else ""
