"""torch's random states in a checkpoint, and again after a resume."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor


class RandomState(Callback):
    """Saves torch's global random states; puts them back at the first step or validation after a resume, for dropout.

    Lightning restores none (`lightning/pytorch/trainer/connectors/checkpoint_connector.py`). Not earlier than the first
    step, since starting the loaders draws from the state as well. All other random choices of litlens follow from the
    seed and need no state. With several devices each gets the first one's CPU state, as after `seed_everything`.
    """

    def __init__(self) -> None:
        self._to_restore: dict[str, Tensor] | None = None

    def state_dict(self) -> dict[str, Tensor]:
        states = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            states["cuda"] = torch.cuda.get_rng_state()
        return states

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states for the first step after the resume."""
        self._to_restore = state_dict

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Put the states back, once."""
        self._restore()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the states back where a resumed run validates first, and not in an evaluation."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._restore()

    def _restore(self) -> None:
        if self._to_restore is None:
            return
        torch.set_rng_state(self._to_restore["cpu"].cpu())
        if "cuda" in self._to_restore and torch.cuda.is_available():
            torch.cuda.set_rng_state(self._to_restore["cuda"].cpu())
        self._to_restore = None
