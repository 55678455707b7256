"""Lightning's finders of a batch size and a learning rate, which run before the training and set what they find.

In a training, Lightning's own callbacks have side effects: the rates of the groups become one, a schedule keeps the
rates that it was built with, and neither config.yaml nor a resumed run knows the value. Here a finder has a classifier,
data and a trainer of its own, and the run is then the same, bit for bit, as with the value given by hand.
"""

import contextlib
import io
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from torch.optim import Optimizer

from litlens.checkpoints.reading import checkpoint_path
from litlens.checkpoints.warm_start import initialize_from
from litlens.cli.mistakes import mistakes_of_values, out_of_memory
from litlens.cli.parser import TrainingCommand
from litlens.errors import UserError
from litlens.evaluation.style import BLUE, ORANGE, house_style, new_figure, plain_axes, svg
from litlens.files import write_atomically
from litlens.signals import signals

CURVE = "learning-rate.svg"
_WARM_UP = 10  # steps whose smoothed loss is of too few batches
_OF_LOWEST = 0.1  # the rate found, of the one with the lowest loss: there, training is about to diverge


def set_found_values(command: TrainingCommand, folder: Path, *, console: Console) -> None:
    """Run the finders among the callbacks, and put what they find in their place in the configuration.

    The batch size comes first, since the learning rate depends on it. A resumed run has the values.
    """
    options = command.config.trainer
    chosen = options.callbacks if isinstance(options.callbacks, list) else [options.callbacks]
    for kind in (BatchSizeFinder, LearningRateFinder):
        for spec in [spec for spec in chosen if spec and spec.class_path.endswith(f".{kind.__name__}")]:
            options.callbacks = chosen = [callback for callback in chosen if callback is not spec]
            if command.resumed is None and not options.fast_dev_run:
                (_set_batch_size if kind is BatchSizeFinder else _set_rate)(command, spec.clone(), folder, console)


def _set_batch_size(command: TrainingCommand, spec: Namespace, folder: Path, console: Console) -> None:
    options = command.config.data.init_args
    if "batch_size" not in options:
        raise UserError("BatchSizeFinder: the data module has no batch_size: remove the finder")
    # Lightning returns a size above the split's at once, and `auto` would be announced.
    options.batch_size = 1
    data = command.build_data(fold=1 if command.config.folds else None)
    data.prepare_data()
    data.setup("fit")
    # Lightning counts on after the whole split is one batch, and returns the largest size of all without having tried
    # it (https://github.com/Lightning-AI/pytorch-lightning/issues/18426).
    largest = min(spec.init_args.max_val, len(data.samples("train")))
    spec.init_args.max_val = largest + 1
    found = _search(command, spec, folder).optimal_batch_size
    options.batch_size = found if found <= largest else found // 2
    console.print(f"data.batch_size: {options.batch_size} (BatchSizeFinder)")


def _set_rate(command: TrainingCommand, spec: Namespace, folder: Path, console: Console) -> None:
    model = command.config.model.init_args
    optimizer, schedule = (model.get(f"{name}.init_args") or {} for name in ("optimizer", "lr_scheduler"))
    if "lr" not in optimizer:
        raise UserError("LearningRateFinder: there is no model.optimizer.lr: remove the finder")
    spec.init_args.update_attr = False  # there is no such attribute
    results = _search(command, spec, folder).optimal_lr.results
    rates, losses = np.array(results["lr"]), np.array(results["loss"])
    tried = np.isfinite(losses) & (np.arange(len(losses)) >= _WARM_UP)
    if not tried.any():
        raise UserError(
            f"LearningRateFinder: no loss after step {_WARM_UP} is finite: lower min_lr, or give more "
            "num_training_steps"
        )
    # Lightning's suggestion is where the loss falls fastest over the rate itself, in place of its logarithm: among the
    # smallest rates (https://github.com/Lightning-AI/pytorch-lightning/issues/21141).
    best = rates[tried][losses[tried].argmin()]
    found = float(f"{best * _OF_LOWEST:.2g}")
    optimizer["lr"] = found
    if "max_lr" in schedule:  # OneCycleLR and CyclicLR go up to it, whatever the optimizer has
        schedule["max_lr"] = found
    write_atomically(folder / CURVE, svg(_figure(rates, losses, found)))
    console.print(f"model.optimizer.lr: {found} (LearningRateFinder, {folder / CURVE})")


def _search(command: TrainingCommand, spec: Namespace, folder: Path) -> Any:
    """Run one finder, and return it."""
    data = command.build_data(fold=1 if command.config.folds else None)
    config = command.config.clone()
    config.trainer.callbacks, config.trainer.logger = [spec], False
    built = command.build(config, data)
    built.model.lr_scheduler = None  # its length follows from a trainer that ends
    if built.model.init_from is not None:
        initialize_from(built.model.network, built.model.class_names, checkpoint_path(Path(built.model.init_from)))
    (finder,) = built.trainer.callbacks
    sizes = isinstance(finder, BatchSizeFinder)
    of_the_search = {
        "callbacks": [_Search(finder)],
        "default_root_dir": folder,
        "max_epochs": -1,  # a finder counts steps
        "max_steps": -1,
        **dict.fromkeys(("enable_checkpointing", "enable_model_summary", "enable_progress_bar"), False),
        "num_sanity_val_steps": 0,
    }
    if not sizes:  # a validation may need the most memory; a rate is found without
        of_the_search |= {"check_val_every_n_epoch": sys.maxsize, "val_check_interval": 1.0}
    with mistakes_of_values():
        trainer = Trainer(**built.trainer.as_dict() | of_the_search)
    if trainer.world_size > 1:
        name = type(finder).__name__
        raise UserError(f"{name}: trainer.devices: {trainer.world_size}: a finder runs on one device: add --devices 1")
    signals.take_over(trainer)
    # A bar of its own and its messages, which no option silences.
    quiet = contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO())
    logging.disable(logging.ERROR)
    try:
        with quiet, contextlib.suppress(_FoundError), out_of_memory(trainer, data):
            trainer.fit(built.model, datamodule=data)
    finally:
        logging.disable(logging.NOTSET)
    return finder


class _FoundError(Exception):
    """Ends the fit after the search."""


class _Search(Callback):
    """Runs a finder at the first batch and ends the fit.

    By then, layers are frozen and class weights computed; in `on_fit_start`, where Lightning's finders run by
    themselves, they are not.
    """

    def __init__(self, finder: LearningRateFinder | BatchSizeFinder) -> None:
        self.finder = finder

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Run the finder."""
        if isinstance(self.finder, BatchSizeFinder):
            self.finder.scale_batch_size(trainer, pl_module)
        else:
            for optimizer in trainer.optimizers:
                optimizer.register_step_pre_hook(_scale_rates)
            self.finder.lr_find(trainer, pl_module)
        raise _FoundError


def _scale_rates(optimizer: Optimizer, *args: Any) -> None:
    """Keep the groups' rates apart, of which the finder makes one at every step."""
    for group in optimizer.param_groups:
        group["lr"] *= group.get("lr_scale", 1.0)


@house_style
def _figure(rates: NDArray[np.float64], losses: NDArray[np.float64], found: float) -> Figure:
    figure = new_figure(6, 3.6)
    axes = figure.add_subplot(xscale="log", xlabel="learning rate", ylabel="training loss, smoothed")
    axes.plot(rates, losses, color=BLUE)
    axes.axvline(found, color=ORANGE, label=f"{found:g}, a tenth of the rate with the lowest loss")
    axes.legend(frameon=False)
    plain_axes(axes)
    return figure
