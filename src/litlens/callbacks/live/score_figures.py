"""Figures of the scores: learning curves, confusion matrix, metrics per class, precision-recall curves."""

from abc import ABC
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from litlens.callbacks.collect_predictions import PassPredictions
from litlens.callbacks.live.drawing import (
    class_names_of,
    epochs_between_drawings,
    should_draw,
    show_figure,
    show_scalars,
    split_title,
    warn_once,
)
from litlens.callbacks.tensorboard import new_tensorboards, tensorboards
from litlens.evaluation.figures import (
    confusion_matrix_figure,
    learning_curves_figure,
    per_class_figure,
    precision_recall_figure,
)
from litlens.evaluation.predictions import Predictions
from litlens.evaluation.scores import class_table, precision_recall_curves, threshold_counts

_TRAIN = ("loss/train", "accuracy/train")
_VAL = ("loss/val", "accuracy/val")
# The charts of the tab CUSTOM SCALARS, by regular expressions.
_CHARTS = {
    "training and validation": {
        kind: ["Multiline", [f"^{kind}/{split}$" for split in ("train", "val")]] for kind in ("loss", "accuracy")
    }
}
_CURVES = 10  # classes that have charts of their own


class LearningCurves(Callback):
    """Shows loss and accuracy of training and validation per epoch: `learning_curves`.

    TensorBoard's tab CUSTOM SCALARS has both splits in one chart, of all runs.

    `history` has one row per epoch: `epoch` and those of the four values that were logged. A resumed run continues
    its history, a new fit starts a new one. Drawn every `every_n_epochs` epochs (by default about ten times in a run)
    and at the end.
    """

    def __init__(self, every_n_epochs: int | None = None) -> None:
        self.every_n_epochs = every_n_epochs
        self.history: list[dict[str, float]] = []
        self._finished: int | None = None  # the epoch whose training values are still to be read

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Drop what an earlier fit left, except the epochs that this trainer continues from."""
        if stage == "fit":
            self.history = [row for row in self.history if row["epoch"] < trainer.current_epoch]
            self._finished = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Describe the charts to TensorBoard."""
        for logger in new_tensorboards(trainer):
            logger.experiment.add_custom_scalars(_CHARTS)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the validation values, which the module's epoch-end hook has logged by now."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._read(trainer, trainer.current_epoch, _VAL)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that the epoch is over; the module may log in its own hook, which comes after this one."""
        self._finished = trainer.current_epoch

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close_epoch(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the last epoch. Not at the end of training: a run that is resumed after its last step has none."""
        self._close_epoch(trainer, last=True)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put the epoch just finished into a checkpoint written before the next one starts."""
        if self._finished is not None:
            self._read(trainer, self._finished, _TRAIN)
            checkpoint["callbacks"][self.state_key] = self.state_dict()

    def state_dict(self) -> dict[str, Any]:
        return {"history": [dict(row) for row in self.history], "finished": self._finished}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Continue a checkpoint's history; testing the best one drops nothing that came after it."""
        state = checkpoint["callbacks"].get(self.state_key)
        if state is not None and (trainer.state.fn == "fit" or not self.history):
            self.history = [dict(row) for row in state["history"]]
            self._finished = state["finished"] if trainer.state.fn == "fit" else None

    def _close_epoch(self, trainer: Trainer, *, last: bool = False) -> None:
        if self._finished is None:
            return
        self._read(trainer, self._finished, _TRAIN)
        is_turn = (self._finished + 1) % epochs_between_drawings(trainer, self.every_n_epochs) == 0
        self._finished = None
        if not any(name in row for row in self.history for name in _TRAIN + _VAL):
            warn_once(self, f"nothing to show: none of {', '.join(_TRAIN + _VAL)} is logged")
        elif is_turn or last:
            show_figure(trainer, "learning_curves", lambda: learning_curves_figure(self.history))

    def _read(self, trainer: Trainer, epoch: int, names: tuple[str, ...]) -> None:
        logged = trainer.callback_metrics
        if not self.history or self.history[-1]["epoch"] != epoch:
            self.history.append({"epoch": epoch})
        self.history[-1].update({name: float(logged[name]) for name in names if name in logged})


class PassFigure(PassPredictions, ABC):
    """Base of callbacks that draw the predictions of a pass over validation or test.

    Args:
        every_n_epochs: How often, and at the last validation of a full run; by default about ten times.
    """

    def __init__(self, every_n_epochs: int | None = None) -> None:
        super().__init__()
        self.every_n_epochs = every_n_epochs

    def is_wanted(self, trainer: Trainer, pl_module: LightningModule, split: str) -> bool:
        return should_draw(trainer, self.every_n_epochs)


class PrecisionRecallCurves(PassFigure):
    """Shows the curves of every class as `precision_recall/val` and `precision_recall/test`.

    TensorBoard's tab PR CURVES has those of up to ten classes, `pr_curve/val/NAME`, and of more classes one over all
    of their probabilities, `pr_curve/val`.
    """

    def use(self, trainer: Trainer, pl_module: LightningModule, split: str, predictions: Predictions) -> None:
        if not predictions.finite.all():  # a curve needs an order
            return
        title = split_title(trainer, split)
        show_figure(
            trainer,
            f"precision_recall/{split}",
            lambda: precision_recall_figure(precision_recall_curves(predictions), title=title),
        )
        curves = {f"pr_curve/{split}": range(predictions.num_classes)}
        if predictions.num_classes <= _CURVES:
            curves = {f"pr_curve/{split}/{name}": range(k, k + 1) for k, name in enumerate(predictions.class_names)}
        for logger in tensorboards(trainer):
            for tag, classes in curves.items():
                counts = threshold_counts(predictions, classes)
                logger.experiment.add_pr_curve_raw(tag, *counts, global_step=trainer.global_step)


class ConfusionMatrix(PassFigure):
    """Shows the confusion matrix as `confusion_matrix/val` and `confusion_matrix/test`."""

    def use(self, trainer: Trainer, pl_module: LightningModule, split: str, predictions: Predictions) -> None:
        title = split_title(trainer, split)
        show_figure(
            trainer,
            f"confusion_matrix/{split}",
            lambda: confusion_matrix_figure(
                predictions.confusion_matrix, predictions.class_names, title=title, small=True
            ),
        )


class PerClassMetrics(PassFigure):
    """Shows precision, recall and F1 of each class.

    Validation with up to ten classes: as scalars `precision/val/NAME`, `recall/val/NAME` and `f1/val/NAME` after every
    pass. With more classes: one figure of the classes with the lowest F1, `per_class/val`. Test: the figure in any
    case, `per_class/test`.

    Args:
        curves_up_to: The largest number of classes that are shown as scalars.
        every_n_epochs: How often the figure is drawn, and at the last validation of a full run; by default about ten
            times.
    """

    def __init__(self, curves_up_to: int = _CURVES, every_n_epochs: int | None = None) -> None:
        super().__init__(every_n_epochs)
        self.curves_up_to = curves_up_to

    def is_wanted(self, trainer: Trainer, pl_module: LightningModule, split: str) -> bool:
        # Without class names the number of classes is known after the first batch only.
        number = len(class_names_of(pl_module))
        return should_draw(trainer, 1 if split == "val" and number <= self.curves_up_to else self.every_n_epochs)

    def use(self, trainer: Trainer, pl_module: LightningModule, split: str, predictions: Predictions) -> None:
        table, title = class_table(predictions), split_title(trainer, split)
        if split == "val" and len(table) <= self.curves_up_to:
            kinds = ("precision", "recall", "f1")
            show_scalars(trainer, {f"{kind}/val/{row.name}": getattr(row, kind) for kind in kinds for row in table})
        elif should_draw(trainer, self.every_n_epochs):
            show_figure(trainer, f"per_class/{split}", lambda: per_class_figure(table, title=title))
