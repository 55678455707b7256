"""Stops a run whose loss is NaN or infinite before that loss can reach the weights."""

import math

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from litlens.callbacks.learning_rate import learning_rates
from litlens.errors import UserError


class FiniteLoss(Callback):
    """Raises UserError at the first loss that is not finite; the step it belongs to is not applied.

    On a CPU the check reads one number. On a GPU reading it at once would make the host wait in every step
    until the forward pass is over, before it can queue the backward pass. So the loss is copied while the
    backward pass is being queued, and looked at just before the optimizer's step: by then it is there, or the
    GPU is the slower of the two anyway. With several devices each looks at its own loss; the first that stops
    ends the run for all.
    """

    def __init__(self) -> None:
        self._copied: tuple[Tensor, torch.cuda.Event] | None = None

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Look at the loss, or on a GPU start copying it."""
        if not loss.is_cuda:
            if not math.isfinite(loss.item()):
                raise _not_finite(trainer, loss.item())
            return
        self._look_at_copy(trainer)  # of an accumulated batch, which no step followed
        copy = torch.empty((), dtype=loss.dtype, pin_memory=True)
        copy.copy_(loss.detach(), non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record()
        self._copied = copy, copied

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """On a GPU, look at the loss behind this step."""
        self._look_at_copy(trainer)

    def _look_at_copy(self, trainer: Trainer) -> None:
        if self._copied is None:
            return
        copy, copied = self._copied
        self._copied = None
        copied.synchronize()
        if not math.isfinite(copy.item()):
            raise _not_finite(trainer, copy.item())


def _not_finite(trainer: Trainer, loss: float) -> UserError:
    rates = ", ".join(f"{name} {rate:.3g}" for name, rate in learning_rates(trainer.optimizers).items())
    return UserError(
        f"the training loss became {loss} in epoch {trainer.current_epoch}, step {trainer.global_step} "
        f"({rates}); the weights are as before this step. Lower the learning rate, warm it up, or set "
        "trainer.gradient_clip_val"
    )
