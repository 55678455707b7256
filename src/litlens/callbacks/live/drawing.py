"""When and where images are shown: by every logger of the trainer that shows any, and nowhere else."""

from collections.abc import Callable, Mapping

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from matplotlib.figure import Figure
from torch import Tensor

from litlens.evaluation.style import pixels

_DRAWINGS = 10  # of one kind in a run, where no frequency is given


def shows_images(trainer: Trainer) -> bool:
    """Whether any logger shows pixels: TensorBoard's and Weights & Biases' do. The same on every rank."""
    return any(_is_gallery(logger) for logger in trainer.loggers)


def due(trainer: Trainer, every_n_epochs: int | None) -> bool:
    """Whether to draw in this pass over a split: somebody can look, and in fit it is the epoch's turn.

    That is the first validation from every n-th epoch on, and the last before `max_epochs`; None stands for about
    ten in the run. Where a run ends early nobody knows in time which validation is its last. One epoch's several
    validations (`val_check_interval`) are alike. Never in the sanity check; the same on every rank.
    """
    if trainer.sanity_checking or not shows_images(trainer):
        return False
    if trainer.state.fn != "fit":
        return True
    epoch, every = trainer.current_epoch + 1, epochs_apart(trainer, every_n_epochs)
    # Not each epoch is validated: the turn of one that is not falls to the next that is.
    apart = trainer.check_val_every_n_epoch or 1
    return epoch // every > (epoch - apart) // every or epoch <= (trainer.max_epochs or -1) < epoch + apart


def epochs_apart(trainer: Trainer, every_n_epochs: int | None) -> int:
    """How many epochs lie between two drawings: as given, or so that a run has about ten.

    TensorBoard shows no more than ten images of a kind, unless it is told to.
    """
    return every_n_epochs or max(1, -(-(trainer.max_epochs or -1) // _DRAWINGS))


def split_title(trainer: Trainer, split: str) -> str:
    """What a figure of `val` or `test` is called."""
    title = {"val": "Validation", "test": "Test"}[split]
    return f"{title}, epoch {trainer.current_epoch}" if split == "val" and trainer.state.fn == "fit" else title


def names_of_classes(module: LightningModule, number: int) -> list[str]:
    """The module's `class_names`, or the classes' numbers where it has none."""
    return list(getattr(module, "class_names", None) or map(str, range(number)))


def show_figure(trainer: Trainer, tag: str, draw: Callable[[], Figure]) -> None:
    """Draw a figure and add it under `tag` at the current step, on rank zero and only where it shows."""
    if not trainer.is_global_zero or not shows_images(trainer):
        return
    image = pixels(draw())
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(tag, image, trainer.global_step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            logger.log_image(tag, [image], step=trainer.global_step)


def show_scalars(trainer: Trainer, values: Mapping[str, float]) -> None:
    """Log values at the current step to the loggers that show pixels: metrics.csv is not widened by them."""
    for logger in trainer.loggers:
        if _is_gallery(logger):
            logger.log_metrics(dict(values), step=trainer.global_step)


def show_histogram(trainer: Trainer, tag: str, values: Tensor) -> None:
    """Add the distribution of the finite ones of any values, on rank zero."""
    finite = values.detach().float().flatten()
    finite = finite[finite.isfinite()].cpu()
    if not trainer.is_global_zero or not len(finite):
        return
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_histogram(tag, finite, trainer.global_step)
        elif isinstance(logger, WandbLogger):
            import wandb

            shown = wandb.Histogram(np_histogram=np.histogram(finite.numpy(), bins=64))
            logger.experiment.log({tag: shown, "trainer/global_step": trainer.global_step})


def _is_gallery(logger: Logger) -> bool:
    return isinstance(logger, TensorBoardLogger | WandbLogger)
