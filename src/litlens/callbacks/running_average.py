"""The running average of the weights, which counts only from its first update on."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.trainer.states import TrainerFn


class RunningAverage(EMAWeightAveraging):
    """Lightning's exponential moving average, right before it begins and after it ends.

    Until `update_starting_at_step` Lightning's average is a copy of the initial weights, and Lightning validates and
    saves that copy (https://github.com/Lightning-AI/pytorch-lightning/issues/21724): here the weights in training are
    validated and saved until the average has begun. And a checkpoint loaded to be tested by the trainer that wrote it
    gives Lightning's module the weights in training, not those that were validated: here it gives the average, as it
    does in any other process. And where Lightning goes on to validate and save the average that a fit has ended with,
    whatever weights the module has been given since, here the average ends with the fit.
    """

    @property
    def begun(self) -> bool:
        """Whether the average has taken in any weights yet."""
        return self._average_model is not None and int(self._average_model.n_averaged) > 0

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the average, if there is one."""
        if self.begun:
            super().on_validation_epoch_start(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the weights in training back."""
        if self.begun:
            super().on_validation_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the average, if there is one."""
        if self.begun:
            super().on_train_end(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the average, which is the module's weights by now; the last checkpoints are written before this."""
        self._average_model = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the average in the place of the weights, if there is one."""
        if self.begun:
            super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on averaging where the checkpoint stopped; one that is evaluated needs no more than its weights."""
        if trainer.state.fn == TrainerFn.FITTING and "averaging_state" in checkpoint:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)
