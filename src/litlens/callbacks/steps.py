"""What happens at each training step: a check of the loss, torch's random state after a resume, the learning rates."""

import math
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from litlens.errors import UserError


class FiniteLoss(Callback):
    """Raises UserError at the first training loss that is NaN or infinite; its step is not applied to the weights.

    On a CPU the check reads one number. On a GPU reading it at once would make the host wait in every step
    until the forward pass is over, before it can queue the backward pass. So the loss is copied while the
    backward pass is being queued, and read just before the optimizer's step: by then it is there, or the
    GPU is the slower of the two anyway. With several devices each checks its own loss; the first that stops
    ends the run for all.
    """

    def __init__(self) -> None:
        self._copied: tuple[Tensor, torch.cuda.Event] | None = None

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Check the loss, or on a GPU start copying it."""
        if not loss.is_cuda:
            if not math.isfinite(loss.item()):
                raise _not_finite(trainer, loss.item())
            return
        self._check_copy(trainer)  # of an accumulated batch, which no step followed
        copy = torch.empty((), dtype=loss.dtype, pin_memory=True)
        copy.copy_(loss.detach(), non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record()
        self._copied = copy, copied

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """On a GPU, check the loss behind this step."""
        self._check_copy(trainer)

    def _check_copy(self, trainer: Trainer) -> None:
        if self._copied is None:
            return
        copy, copied = self._copied
        self._copied = None
        copied.synchronize()
        if not math.isfinite(copy.item()):
            raise _not_finite(trainer, copy.item())


class RandomState(Callback):
    """Saves torch's global random states and puts them back at the first step after a resume, for dropout.

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
        if self._to_restore is None:
            return
        torch.set_rng_state(self._to_restore["cpu"].cpu())
        if "cuda" in self._to_restore and torch.cuda.is_available():
            torch.cuda.set_rng_state(self._to_restore["cuda"].cpu())
        self._to_restore = None


class LearningRate(Callback):
    """Logs the learning rate of every parameter group that the next step uses, as `lr/NAME`.

    NAME is the group's `name` if it has one, otherwise the optimizer's class; equal names get `-1`, `-2` and so on.
    Values go straight to the loggers, which costs nothing in the steps between.
    """

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Log at the steps of Lightning's `self.log` (0: at none), once where gradients are accumulated."""
        step, every = trainer.global_step, trainer.log_every_n_steps  # type: ignore[attr-defined]
        if not every or (step + 1) % every or batch_idx % trainer.accumulate_grad_batches:
            return
        rates = learning_rates(trainer.optimizers)
        for logger in trainer.loggers:
            logger.log_metrics(rates, step=step)


def learning_rates(optimizers: list[Optimizer]) -> dict[str, float]:
    """The current learning rate of every parameter group, as `lr/NAME`."""
    rates: dict[str, float] = {}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            plain = f"lr/{group.get('name') or type(optimizer).__name__}"
            name, number = plain, 0
            while name in rates:
                number += 1
                name = f"{plain}-{number}"
            rates[name] = float(group["lr"])
    return rates


def _not_finite(trainer: Trainer, loss: float) -> UserError:
    rates = ", ".join(f"{name} {rate:.3g}" for name, rate in learning_rates(trainer.optimizers).items())
    return UserError(
        f"the training loss became {loss} in epoch {trainer.current_epoch}, step {trainer.global_step} "
        f"({rates}); the weights are as before this step. Lower the learning rate, warm it up, or set "
        "trainer.gradient_clip_val"
    )
