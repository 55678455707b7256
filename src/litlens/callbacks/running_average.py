"""Averages of the weights, used only from their first update on."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch.optim.swa_utils import get_swa_avg_fn

from litlens.errors import UserError


class _WeightAverage(WeightAveraging):
    """Lightning's average of the weights, corrected before it begins and after fit ends.

    - Until the first update, Lightning validates and saves a copy of the initial weights
      (https://github.com/Lightning-AI/pytorch-lightning/issues/21724); here, the weights in training.
    - A checkpoint loaded for a test by the trainer that wrote it gives Lightning's module the weights in training;
      here, the average that was validated, as in any other process.
    - After fit, Lightning continues to validate and save the last average, even if the module has other weights by
      then; here, the average ends with the fit, also with one that raises.
    """

    _is_in_module = False  # while it is validated

    @property
    def begun(self) -> bool:
        """Whether the average has been updated."""
        return self._average_model is not None and int(self._average_model.n_averaged) > 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Lightning takes the module's device, but the module is moved to a GPU only after `setup`.
        self._device = self._device or trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.begun:
            super().on_validation_epoch_start(trainer, pl_module)
            self._is_in_module = True

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.begun:
            super().on_validation_epoch_end(trainer, pl_module)
            self._is_in_module = False

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.begun:
            super().on_train_end(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop the average: by now the module has its weights, and the last checkpoints are written."""
        self._average_model = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Put the weights in training back where the exception came in the validation, and drop the average."""
        if self._is_in_module:
            super().on_validation_epoch_end(trainer, pl_module)
        self._average_model, self._is_in_module = None, False

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self.begun:
            super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Continue the average of a resumed fit; an evaluation needs only the weights."""
        if trainer.state.fn == TrainerFn.FITTING and "averaging_state" in checkpoint:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)


class RunningAverage(_WeightAverage, EMAWeightAveraging):
    """Lightning's exponential moving average: `decay` of the average and the rest of the weights after each step.

    Until `update_starting_at_step`, the weights in training are validated and saved.
    """


class EpochAverage(_WeightAverage):
    """Stochastic weight averaging: the mean of the weights at the ends of the last epochs (Izmailov et al. 2018).

    In each of these epochs, the average is validated and saved; before, the weights in training. The statistics of
    batch norm are averaged as well. Lightning's `StochasticWeightAveraging` validates the weights in training and
    copies the average into the module when the last checkpoint is written, so that no checkpoint contains it.

    Args:
        start: The share of the epochs before the first that is averaged.
    """

    def __init__(self, start: float = 0.75) -> None:
        # torch's default on a GPU, `_foreach_addcdiv_`, fails on the integer buffers of batch norm.
        super().__init__(avg_fn=get_swa_avg_fn())  # type: ignore[no-untyped-call]
        if not 0 <= start < 1:
            raise UserError(f"EpochAverage: start: {start}: give a share of the epochs, from 0 to below 1")
        self.start = start
        self._first_epoch = 0
        self._epoch_ends = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        epochs = trainer.max_epochs
        if stage == "fit" and (epochs is None or epochs < 0):
            raise UserError("EpochAverage: start is a share of the epochs: give trainer.max_epochs")
        self._first_epoch = int(self.start * (epochs or 0))
        super().setup(trainer, pl_module, stage)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Not at the end of the epoch, which comes after its validation. Where a resumed run has more epochs, an average
        # that has begun goes on.
        self._epoch_ends = trainer.is_last_batch and (self.begun or trainer.current_epoch >= self._first_epoch)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return step_idx is not None and self._epoch_ends
