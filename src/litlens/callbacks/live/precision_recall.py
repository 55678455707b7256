"""Precision against recall of every class."""

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from litlens.callbacks.live.drawing import due, names_of_classes, show_figure, split_title
from litlens.callbacks.live.shown_samples import predictions_in
from litlens.evaluation.precision_recall import precision_recall_curves, precision_recall_figure
from litlens.evaluation.predictions import Predictions


class PrecisionRecallCurves(Callback):
    """Shows the curves as `precision_recall/val` and `precision_recall/test`.

    The steps have to return `logits` and `labels`, otherwise nothing is shown. With several devices, the curves
    are those of the first one's share of the split.

    Args:
        every_n_epochs: How often, and at the end of a run that reaches `max_epochs`; by default about ten times.
    """

    def __init__(self, every_n_epochs: int | None = None) -> None:
        self.every_n_epochs = every_n_epochs
        self._batches: list[tuple[Tensor, Tensor]] = []

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last pass."""
        self._batches.clear()

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last pass."""
        self._batches.clear()

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
        found = predictions_in(outputs)
        if found is not None and not dataloader_idx and trainer.is_global_zero and due(trainer, self.every_n_epochs):
            self._batches.append(found)

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the validation's curves, if this epoch is due."""
        self._show(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the test's curves."""
        self._show(trainer, pl_module, "test")

    def _show(self, trainer: Trainer, pl_module: LightningModule, split: str) -> None:
        if not self._batches:
            return
        logits, labels = (torch.cat(parts).cpu().numpy() for parts in zip(*self._batches, strict=True))
        self._batches.clear()
        if not np.isfinite(logits).all():  # a curve needs an order
            return
        names = names_of_classes(pl_module, logits.shape[1])
        predictions = Predictions(logits, labels, [str(place) for place in range(len(labels))], names)
        title = split_title(trainer, split)
        show_figure(
            trainer,
            f"precision_recall/{split}",
            lambda: precision_recall_figure(precision_recall_curves(predictions), title=title),
        )
