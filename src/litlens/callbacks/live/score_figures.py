"""Figures of the scores: learning curves, confusion matrix, metrics per class, precision-recall curves."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor, nn

from litlens.callbacks.live.drawing import (
    epochs_between_drawings,
    names_of_classes,
    outputs_of_step,
    should_draw,
    show_figure,
    show_scalars,
    split_title,
    warn_of_outputs,
    warn_once,
)
from litlens.evaluation.figures import (
    confusion_matrix_figure,
    learning_curves_figure,
    per_class_figure,
    precision_recall_figure,
)
from litlens.evaluation.predictions import Predictions
from litlens.evaluation.scores import class_table_of, confusion_matrix, precision_recall_curves

_TRAIN = ("loss/train", "accuracy/train")
_VAL = ("loss/val", "accuracy/val")


class LearningCurves(Callback):
    """Keeps `loss` and `accuracy` of training and validation per epoch and shows them as `learning_curves`.

    `history` has one row per epoch: `epoch` and those of the four values that were logged. A resumed run continues
    its history, a new fit starts another. Drawn every `every_n_epochs` epochs (by default about ten times in a run)
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

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the validation's values, which the module's epoch-end hook has logged by now."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._read(trainer, trainer.current_epoch, _VAL)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that the epoch is over; the module may log in its own hook, which comes after this one."""
        self._finished = trainer.current_epoch

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the epoch before this one."""
        self._close_epoch(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the last epoch."""
        self._close_epoch(trainer, last=True)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put the epoch just finished into a checkpoint written before the next one starts."""
        if self._finished is not None:
            self._read(trainer, self._finished, _TRAIN)
            checkpoint["callbacks"][self.state_key] = self.state_dict()

    def state_dict(self) -> dict[str, Any]:
        return {"history": [dict(row) for row in self.history]}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Continue a checkpoint's history; testing the best one drops nothing that came after it."""
        state = checkpoint["callbacks"].get(self.state_key)
        if state is not None and (trainer.state.fn == "fit" or not self.history):
            self.history = [dict(row) for row in state["history"]]

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


class PassFigure(Callback, ABC):
    """Shows something about each pass over validation and test, from the logits and labels that the steps return.

    With several devices these are the first one's share of the split. A module whose steps return neither is
    reported in one line, once.

    Args:
        every_n_epochs: How often, and at the last validation of a full run; by default about ten times.
    """

    def __init__(self, every_n_epochs: int | None = None) -> None:
        self.every_n_epochs = every_n_epochs
        self._batches: list[tuple[Tensor, Tensor]] = []

    @abstractmethod
    def show(self, trainer: Trainer, pl_module: LightningModule, split: str) -> None:
        """Show the figure of the pass that ends; called on every rank in each pass that `is_turn` names."""

    def is_turn(self, trainer: Trainer, pl_module: LightningModule, split: str) -> bool:
        """Whether this pass is shown."""
        return should_draw(trainer, self.every_n_epochs)

    def counted_by(self, pl_module: LightningModule, split: str) -> Any:
        """What the module counts itself, in place of collected batches."""
        return None

    def predictions(self, pl_module: LightningModule) -> Predictions | None:
        """The pass's predictions; None on other ranks and without logits."""
        if not self._batches:
            return None
        logits, labels = (torch.cat(parts).cpu().numpy() for parts in zip(*self._batches, strict=True))
        names = names_of_classes(pl_module, max(logits.shape[1], int(labels.max(initial=-1)) + 1))
        return Predictions(logits, labels, [str(place) for place in range(len(labels))], names[: logits.shape[1]])

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._batches.clear()

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the logits, on their device."""
        self._keep(trainer, pl_module, outputs, dataloader_idx, "val")

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the logits, on their device."""
        self._keep(trainer, pl_module, outputs, dataloader_idx, "test")

    # Lightning calls these before the module's own hooks of the same name, which may reset its counts.
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end(trainer, pl_module, "test")

    def _keep(self, trainer: Trainer, module: LightningModule, outputs: object, loader: int, split: str) -> None:
        if loader or not trainer.is_global_zero or not self.is_turn(trainer, module, split):
            return
        if self.counted_by(module, split) is not None:
            return
        found = outputs_of_step(outputs)
        if found is None:
            warn_of_outputs(self, module, split)
        else:
            self._batches.append(found)

    def _end(self, trainer: Trainer, module: LightningModule, split: str) -> None:
        if self.is_turn(trainer, module, split):
            self.show(trainer, module, split)
        self._batches.clear()


class PrecisionRecallCurves(PassFigure):
    """Shows the curves of every class as `precision_recall/val` and `precision_recall/test`."""

    def show(self, trainer: Trainer, pl_module: LightningModule, split: str) -> None:
        predictions, title = self.predictions(pl_module), split_title(trainer, split)
        if predictions is not None and predictions.finite.all():  # a curve needs an order
            show_figure(
                trainer,
                f"precision_recall/{split}",
                lambda: precision_recall_figure(precision_recall_curves(predictions), title=title),
            )


class CountsFigure(PassFigure, ABC):
    """Shows something about each pass's confusion matrix.

    The module's own `confusion["val"]` and `confusion["test"]` where it has them: torchmetrics'
    `MulticlassConfusionMatrix`, which add up over all devices. Otherwise the labels and logits are counted.
    """

    def counted_by(self, pl_module: LightningModule, split: str) -> Any:
        matrices = getattr(pl_module, "confusion", None)
        has_splits = isinstance(matrices, Mapping | nn.ModuleDict) and split in matrices
        return matrices[split] if has_splits else None  # type: ignore[index]

    def counts(self, pl_module: LightningModule, split: str) -> NDArray[np.int64] | None:
        """Counts (K, K), rows labels; None on other ranks where the module does not count."""
        matrix = self.counted_by(pl_module, split)
        if matrix is not None:
            counted: NDArray[np.int64] = matrix.compute().cpu().numpy()  # a collective: on every rank
            return counted
        predictions = self.predictions(pl_module)
        return None if predictions is None else confusion_matrix(predictions)


class ConfusionMatrix(CountsFigure):
    """Shows the confusion matrix as `confusion_matrix/val` and `confusion_matrix/test`."""

    def show(self, trainer: Trainer, pl_module: LightningModule, split: str) -> None:
        counts, title = self.counts(pl_module, split), split_title(trainer, split)
        if counts is not None:
            names = names_of_classes(pl_module, len(counts))
            show_figure(
                trainer, f"confusion_matrix/{split}", lambda: confusion_matrix_figure(counts, names, title=title)
            )


class PerClassMetrics(CountsFigure):
    """Shows precision, recall and F1 of each class.

    Validation with up to ten classes: as scalars `precision/val/NAME`, `recall/val/NAME` and `f1/val/NAME` after every
    pass. With more classes: one figure of the classes with the lowest F1, `per_class/val`. Test: the figure in any
    case, `per_class/test`.

    Args:
        curves_up_to: The largest number of classes that are shown as scalars.
        every_n_epochs: How often the figure is drawn, and at the last validation of a full run; by default about ten
            times.
    """

    def __init__(self, curves_up_to: int = 10, every_n_epochs: int | None = None) -> None:
        super().__init__(every_n_epochs)
        self.curves_up_to = curves_up_to

    def is_turn(self, trainer: Trainer, pl_module: LightningModule, split: str) -> bool:
        matrix = self.counted_by(pl_module, split)
        # Without the module's matrix the number of classes is known after the first batch only.
        number = matrix.num_classes if matrix is not None else 0
        return should_draw(trainer, 1 if split == "val" and number <= self.curves_up_to else self.every_n_epochs)

    def show(self, trainer: Trainer, pl_module: LightningModule, split: str) -> None:
        counts, title = self.counts(pl_module, split), split_title(trainer, split)
        if counts is None:
            return
        table = class_table_of(counts, names_of_classes(pl_module, len(counts)))
        if split == "val" and len(counts) <= self.curves_up_to:
            kinds = ("precision", "recall", "f1")
            show_scalars(trainer, {f"{kind}/val/{row.name}": getattr(row, kind) for kind in kinds for row in table})
        elif should_draw(trainer, self.every_n_epochs):
            show_figure(trainer, f"per_class/{split}", lambda: per_class_figure(table, title=title))
