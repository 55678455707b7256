"""Where pictures go: to every logger of the trainer that shows pictures, and nowhere else."""

from collections.abc import Callable

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from matplotlib.figure import Figure

from litlens.evaluation.figures import pixels


def shows_pictures(trainer: Trainer) -> bool:
    """Whether any logger shows pictures: TensorBoard's and Weights & Biases' do. The same on every rank."""
    return any(_is_gallery(logger) for logger in trainer.loggers)


def show_figure(trainer: Trainer, tag: str, draw: Callable[[], Figure]) -> None:
    """Draw a figure and add it under `tag` at the current step, on rank zero and only where it shows."""
    if not trainer.is_global_zero or not shows_pictures(trainer):
        return
    picture = pixels(draw())
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(tag, picture, trainer.global_step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            logger.log_image(tag, [picture], step=trainer.global_step)


def _is_gallery(logger: Logger) -> bool:
    return isinstance(logger, TensorBoardLogger | WandbLogger)
