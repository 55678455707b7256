"""The confusion matrix as an image, after validation and test."""

from lightning.pytorch import Callback, LightningModule, Trainer

from litlens.callbacks.live.drawing import due, names_of_classes, show_figure, split_title
from litlens.evaluation.figures import confusion_matrix_figure


class ConfusionMatrix(Callback):
    """Shows the confusion matrices that the module counts in `confusion["val"]` and `confusion["test"]`.

    These are torchmetrics' `MulticlassConfusionMatrix`, one per split; `class_names` of the module names the
    classes. A module without them is left alone. Drawn every `every_n_epochs` epochs (by default about ten times in
    a run) and at the end of a run that reaches `max_epochs`, as `confusion_matrix/val` and `confusion_matrix/test`.
    """

    def __init__(self, every_n_epochs: int | None = None) -> None:
        self.every_n_epochs = every_n_epochs

    # Lightning calls these before the module's own hooks of the same name, which may reset the counts.
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the validation's matrix, if this epoch is due."""
        self._show(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the test's matrix."""
        self._show(trainer, pl_module, "test")

    def _show(self, trainer: Trainer, pl_module: LightningModule, split: str) -> None:
        confusion = getattr(pl_module, "confusion", None)
        if confusion is None or split not in confusion or not due(trainer, self.every_n_epochs):
            return
        counts = confusion[split].compute().cpu().numpy()  # adds up over the ranks, so every rank has to take part
        names, title = names_of_classes(pl_module, len(counts)), split_title(trainer, split)
        show_figure(trainer, f"confusion_matrix/{split}", lambda: confusion_matrix_figure(counts, names, title=title))
