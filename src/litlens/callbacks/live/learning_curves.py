"""Loss and accuracy over the epochs, training and validation in one image."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from litlens.callbacks.live.drawing import epochs_apart, show_figure
from litlens.evaluation.figures import learning_curves_figure

_TRAIN = ("loss/train", "accuracy/train")
_VAL = ("loss/val", "accuracy/val")


class LearningCurves(Callback):
    """Keeps `loss` and `accuracy` of training and validation per epoch and shows them as `learning_curves`.

    `history` holds one row per epoch: `epoch` and what was logged of the four. It goes on where it was after
    a resume. Drawn every `every_n_epochs` epochs (by default about ten times in a run) and at the end.
    """

    def __init__(self, every_n_epochs: int | None = None) -> None:
        self.every_n_epochs = every_n_epochs
        self.history: list[dict[str, float]] = []
        self._finished: int | None = None  # the epoch whose training values are still to be read

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
        """The history."""
        return {"history": [dict(row) for row in self.history]}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on from a checkpoint's history; testing the best one forgets nothing that came after it."""
        state = checkpoint["callbacks"].get(self.state_key)
        if state is not None and (trainer.state.fn == "fit" or not self.history):
            self.history = [dict(row) for row in state["history"]]

    def _close_epoch(self, trainer: Trainer, *, last: bool = False) -> None:
        if self._finished is None:
            return
        self._read(trainer, self._finished, _TRAIN)
        due = (self._finished + 1) % epochs_apart(trainer, self.every_n_epochs) == 0
        self._finished = None
        if due or last:
            show_figure(trainer, "learning_curves", lambda: learning_curves_figure(self.history))

    def _read(self, trainer: Trainer, epoch: int, names: tuple[str, ...]) -> None:
        logged = trainer.callback_metrics
        if not self.history or self.history[-1]["epoch"] != epoch:
            self.history.append({"epoch": epoch})
        self.history[-1].update({name: float(logged[name]) for name in names if name in logged})
