"""When and where figures are drawn: at the chosen epochs, by every logger of the trainer that shows images."""

import io
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from litlens.evaluation.style import pixels

_log = logging.getLogger(__name__)

_DRAWINGS = 10  # of one kind in a run, by default


def shows_images(trainer: Trainer) -> bool:
    """Whether any logger shows images: those of TensorBoard and Weights & Biases do. The same on every rank."""
    return any(_is_gallery(logger) for logger in trainer.loggers)


def should_draw(trainer: Trainer, every_n_epochs: int | None) -> bool:
    """Whether to draw in this pass over a split: a logger shows images, and in fit it is the epoch's turn.

    That is the first validation from every n-th epoch on, and the last one of a full run; None means about ten
    drawings in the run. If a run ends early, its last validation is not known in time. All validations of one epoch
    (`val_check_interval`) are treated alike. Never in the sanity check; the same on every rank.
    """
    if trainer.sanity_checking or not shows_images(trainer):
        return False
    if trainer.state.fn != "fit":
        return True
    epoch, every = trainer.current_epoch + 1, epochs_between_drawings(trainer, every_n_epochs)
    # Not each epoch is validated: the turn of one that is not falls to the next that is.
    apart = trainer.check_val_every_n_epoch or 1
    return epoch // every > (epoch - apart) // every or epoch <= _epochs_of(trainer) < epoch + apart


def epochs_between_drawings(trainer: Trainer, every_n_epochs: int | None) -> int:
    """The number of epochs from one drawing to the next: as given, or so that a run has about ten.

    TensorBoard shows no more than ten images per tag by default.
    """
    return every_n_epochs or max(1, -(-_epochs_of(trainer) // _DRAWINGS))


def _epochs_of(trainer: Trainer) -> int:
    """The full epochs of this run by `max_epochs` and `max_steps`, whichever ends first; -1 if neither is set."""
    epochs = trainer.max_epochs if trainer.max_epochs is not None else -1
    if trainer.max_steps < 0 or trainer.num_training_batches == float("inf"):
        return epochs
    steps = max(1, -(-int(trainer.num_training_batches) // trainer.accumulate_grad_batches))
    by_steps = trainer.max_steps // steps
    return by_steps if epochs < 0 else min(epochs, by_steps)


def split_title(trainer: Trainer, split: str) -> str:
    """The title of a figure of `val` or `test`."""
    title = {"val": "Validation", "test": "Test"}[split]
    return f"{title}, epoch {trainer.current_epoch}" if split == "val" and trainer.state.fn == "fit" else title


def class_names_of(module: LightningModule) -> list[str]:
    """The `class_names` of the module, otherwise those of its data module; none where neither has any."""
    owners = (module, getattr(module.trainer, "datamodule", None))
    given = (getattr(owner, "class_names", None) for owner in owners)
    return [str(name) for name in next(filter(None, given), ())]


def names_of_classes(module: LightningModule, number: int) -> list[str]:
    """The first `number` class names if there are so many, otherwise the classes' numbers."""
    names = class_names_of(module)
    return names[:number] if len(names) >= number else [str(k) for k in range(number)]


@rank_zero_only
def warn_once(callback: Callback, message: str) -> None:
    """Log one line about what this callback is missing, once, on rank zero."""
    if not vars(callback).get("_warned"):
        vars(callback)["_warned"] = True
        _log.warning("%s: %s", type(callback).__name__, message)


def show_figure(trainer: Trainer, tag: str, draw: Callable[[], Figure]) -> None:
    """Draw a figure and add it under `tag` at the current step, on rank zero and only if a logger shows it."""
    if not trainer.is_global_zero or not shows_images(trainer):
        return
    image = pixels(draw())
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            # `add_image` computes in float32, resizes to the same size and compresses more: five times as long.
            logger.experiment._get_file_writer().add_summary(_summary(tag, image), trainer.global_step)
        elif isinstance(logger, WandbLogger):
            logger.log_image(tag, [image], step=trainer.global_step)


def _summary(tag: str, image: NDArray[np.uint8]) -> Any:
    """An image (H, W, 3) as TensorBoard keeps it."""
    from tensorboard.compat.proto.summary_pb2 import Summary  # not before a logger of it exists

    png = io.BytesIO()
    Image.fromarray(image).save(png, format="PNG", compress_level=1)
    height, width, channels = image.shape
    shown = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=png.getvalue())
    return Summary(value=[Summary.Value(tag=tag, image=shown)])


def show_table(trainer: Trainer, tag: str, columns: list[str], rows: Iterable[Sequence[object]]) -> None:
    """Add a table by Weights & Biases: TensorBoard has none. A cell is text, a number, or an image (H, W, 1 or 3)."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            import wandb

            data = [[wandb.Image(cell) if isinstance(cell, np.ndarray) else cell for cell in row] for row in rows]
            logger.log_table(tag, columns, data, step=trainer.global_step)


def show_scalars(trainer: Trainer, values: Mapping[str, float]) -> None:
    """Log values at the current step to the loggers that show images: metrics.csv gets no column for them."""
    for logger in trainer.loggers:
        if _is_gallery(logger):
            logger.log_metrics(dict(values), step=trainer.global_step)


def show_histogram(trainer: Trainer, tag: str, values: Tensor) -> None:
    """Add the distribution of the finite values, on rank zero."""
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
