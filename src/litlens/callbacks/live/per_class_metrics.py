"""Precision, recall and F1 of every class."""

from lightning.pytorch import Callback, LightningModule, Trainer

from litlens.callbacks.live.drawing import due, names_of_classes, show_figure, show_scalars, split_title
from litlens.evaluation.figures import per_class_figure
from litlens.evaluation.measures import class_table_of


class PerClassMetrics(Callback):
    """Shows what the module's `confusion["val"]` and `confusion["test"]` say of each class.

    Validation up to ten classes: as curves, `precision/val/NAME`, `recall/val/NAME` and `f1/val/NAME`, after
    every pass, since how a class fares over the epochs is what one wants to see, and it costs next to nothing.
    More classes would make a hundred charts that nobody compares: one figure of those that fare worst,
    `per_class/val`, every `every_n_epochs` epochs (by default about ten times in a run) and at the end of a run that
    reaches `max_epochs`. The test, which comes once, has the figure in any case, `per_class/test`.
    """

    def __init__(self, curves_up_to: int = 10, every_n_epochs: int | None = None) -> None:
        self.curves_up_to, self.every_n_epochs = curves_up_to, every_n_epochs

    # Lightning calls these before the module's own hooks of the same name, which may reset the counts.
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the validation's figures."""
        self._show(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the test's figures."""
        self._show(trainer, pl_module, "test")

    def _show(self, trainer: Trainer, pl_module: LightningModule, split: str) -> None:
        confusion = getattr(pl_module, "confusion", None)
        if confusion is None or split not in confusion:
            return
        curves = split == "val" and confusion[split].num_classes <= self.curves_up_to
        if not due(trainer, 1 if curves else self.every_n_epochs):
            return
        counts = confusion[split].compute().cpu().numpy()  # adds up over the ranks, so every rank has to take part
        table = class_table_of(counts, names_of_classes(pl_module, len(counts)))
        if curves:
            kinds = ("precision", "recall", "f1")
            show_scalars(trainer, {f"{kind}/{split}/{row.name}": getattr(row, kind) for kind in kinds for row in table})
        else:
            title = split_title(trainer, split)
            show_figure(trainer, f"per_class/{split}", lambda: per_class_figure(table, title=title))
