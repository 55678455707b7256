"""A running average of the weights, used only from its first update on."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.trainer.states import TrainerFn


class RunningAverage(EMAWeightAveraging):
    """Lightning's exponential moving average, corrected before it begins and after fit ends.

    - Until `update_starting_at_step`, Lightning validates and saves a copy of the initial weights
      (https://github.com/Lightning-AI/pytorch-lightning/issues/21724); here, the weights in training.
    - A checkpoint loaded for a test by the trainer that wrote it gives Lightning's module the weights in training;
      here, the average that was validated, as in any other process.
    - After fit, Lightning continues to validate and save the last average, even if the module has other weights by
      then; here, the average ends with the fit.
    """

    @property
    def begun(self) -> bool:
        """Whether the average has been updated."""
        return self._average_model is not None and int(self._average_model.n_averaged) > 0

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.begun:
            super().on_validation_epoch_start(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.begun:
            super().on_validation_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.begun:
            super().on_train_end(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop the average: by now the module has its weights, and the last checkpoints are written."""
        self._average_model = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self.begun:
            super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Continue the average of a resumed fit; an evaluation needs only the weights."""
        if trainer.state.fn == TrainerFn.FITTING and "averaging_state" in checkpoint:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)
