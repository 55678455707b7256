"""Learning-rate schedules: Lightning's settings for each, and lengths that follow from the trainer."""

from collections.abc import Callable
from functools import partial
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.types import LRSchedulerConfigType
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CyclicLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
)

from litlens.errors import UserError


class CosineLR(CosineAnnealingLR):
    """torch's CosineAnnealingLR whose `T_max`, in epochs, is by default the trainer's max_epochs."""

    def __init__(
        self,
        optimizer: Optimizer,
        T_max: int | None = None,  # noqa: N803, torch's name
        eta_min: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        if T_max is None:
            raise UserError("CosineLR: T_max is missing: give the number of epochs")
        super().__init__(optimizer, T_max, eta_min, last_epoch)


class WarmupCosineLR(SequentialLR):
    """A linear warm-up to the optimizer's learning rate, then a cosine to `eta_min`; both count steps.

    It is torch's SequentialLR of LinearLR and CosineAnnealingLR. All rates are relative to those of the groups.

    Args:
        optimizer: The optimizer.
        total_steps: The length; by default that of the training.
        warmup: The share of the steps that warm up.
        start_factor: The share of the learning rate in the first step.
        eta_min: The learning rate at the end.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int | None = None,
        warmup: float = 0.1,
        start_factor: float = 0.01,
        eta_min: float = 0.0,
    ) -> None:
        if total_steps is None:
            raise UserError("WarmupCosineLR: total_steps is missing: give the number of steps")
        if not 0 < warmup < 1:
            raise UserError(f"WarmupCosineLR: warmup: {warmup}: give a share of the steps between 0 and 1")
        if not 0 < start_factor <= 1:
            raise UserError(f"WarmupCosineLR: start_factor: {start_factor}: give a number above 0, to 1")
        self.total_steps = total_steps  # torch's schedules save all their attributes
        steps = max(1, round(warmup * total_steps))
        rise = LinearLR(optimizer, start_factor, total_iters=steps)
        fall = CosineAnnealingLR(optimizer, max(1, total_steps - steps), eta_min)
        super().__init__(optimizer, [rise, fall], milestones=[steps])


_WHOLE_TRAINING = (OneCycleLR, WarmupCosineLR)
_CYCLES = (OneCycleLR, CyclicLR)
# These count steps; every other schedule of torch counts epochs.
_PER_STEP = (*_CYCLES, WarmupCosineLR)


def schedule(make: Callable[..., LRScheduler], optimizer: Optimizer, trainer: Trainer) -> LRSchedulerConfigType:
    """Build the schedule in the form that `configure_optimizers` returns: with its interval and its monitor.

    For a partial, which the command line gives, missing total_steps (OneCycleLR, WarmupCosineLR) and T_max (cosines)
    follow from the trainer. OneCycleLR and CyclicLR override the rates of the groups: theirs are multiplied by each
    group's `lr_scale`, and they cycle no momentum where the optimizer has none.
    Raises UserError where a resumed run would be longer or shorter than its schedule.
    """
    kind, given = _parts(make)
    follows: dict[str, Any] = {}
    if issubclass(kind, _WHOLE_TRAINING) and not (given.get("total_steps") or given.get("epochs")):
        follows["total_steps"] = _total_steps(kind, trainer)
        _refuse_another_length(kind, follows, trainer)
    elif issubclass(kind, CosineAnnealingLR) and not given.get("T_max"):
        if not trainer.max_epochs or trainer.max_epochs < 0:
            raise UserError(f"{kind.__name__}: give T_max (epochs), or trainer.max_epochs.")
        follows["T_max"] = trainer.max_epochs
        _refuse_another_length(kind, follows, trainer)
    if issubclass(kind, _CYCLES):
        for name in ("base_lr", "max_lr"):
            if isinstance(given.get(name), int | float):
                follows[name] = [given[name] * group.get("lr_scale", 1.0) for group in optimizer.param_groups]
        # The command line passes torch's default, True, which torch refuses for these optimizers.
        if not {"momentum", "betas"} & optimizer.defaults.keys():
            follows["cycle_momentum"] = False
    try:
        made = make(optimizer, **follows)
    except ZeroDivisionError as error:  # torch divides by the number of warm-up steps minus one
        raise UserError(
            f"{kind.__name__}: pct_start leaves a warm-up of one step: train for more steps, or change pct_start"
        ) from error
    config: LRSchedulerConfigType = {
        "scheduler": made,
        "interval": "step" if isinstance(made, _PER_STEP) else "epoch",
    }
    if isinstance(made, ReduceLROnPlateau):
        monitor = getattr(made, "monitor", "loss/val")  # Lightning's subclass has its own
        config["monitor"] = monitor
        if monitor.endswith("/val"):  # known only after epochs with a validation
            config["frequency"] = trainer.check_val_every_n_epoch or 1
    return config


def _total_steps(kind: type, trainer: Trainer) -> int:
    steps = trainer.estimated_stepping_batches
    if trainer.ckpt_path is not None:
        # That built the training loader before the resumed run's position in the epoch is known, which Lightning passes
        # to new loaders only (`FitLoop.setup_data`): it has to be built again.
        trainer.fit_loop._combined_loader = None
    if steps == float("inf"):
        raise UserError(f"{kind.__name__}: give total_steps, or trainer.max_epochs or max_steps.")
    return int(steps)


def _refuse_another_length(kind: type, follows: dict[str, Any], trainer: Trainer) -> None:
    # Lightning restores the state of the schedule later, including its length: a cosine would end with the old length
    # and rise again, and OneCycleLR would stop the run at its last step.
    for state in trainer._checkpoint_connector._loaded_checkpoint.get("lr_schedulers", []):
        for name, length in follows.items():
            if state.get(name, length) != length:
                raise UserError(
                    f"--resume: {kind.__name__} ends with the run's last epoch, so its length cannot change "
                    f"({name} is {state[name]} in the checkpoint and {length} here): start a new run from the weights: "
                    f"--model.init_from {trainer.ckpt_path}"
                )


def _parts(make: Callable[..., Any]) -> tuple[type, dict[str, Any]]:
    """The class that a partial constructs, and its keywords; jsonargparse has the class among the arguments."""
    if isinstance(make, partial):
        for candidate in (make.func, *make.args):
            if isinstance(candidate, type) and issubclass(candidate, LRScheduler):
                return candidate, make.keywords
    return (make, {}) if isinstance(make, type) else (object, {})
