"""Learning-rate schedules: what Lightning has to know of each, and lengths that follow from the trainer."""

from collections.abc import Callable
from functools import partial
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.types import LRSchedulerConfigType
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CyclicLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
)

from litlens.errors import UserError

# These count steps; every other schedule of torch counts epochs.
_PER_STEP = (OneCycleLR, CyclicLR)


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
            raise UserError("CosineLR: T_max, the number of epochs, is missing and no trainer gives it.")
        super().__init__(optimizer, T_max, eta_min, last_epoch)


def schedule(make: Callable[..., LRScheduler], optimizer: Optimizer, trainer: Trainer) -> LRSchedulerConfigType:
    """The schedule as `configure_optimizers` returns it: with its interval and what it watches.

    Where `make` is a partial, as the command line gives it, total_steps (OneCycleLR) and T_max (the cosines)
    come from the trainer if they are missing, the rates that OneCycleLR and CyclicLR set, whatever the groups
    have, are multiplied by each group's `lr_scale`, and they leave momentum alone where the optimizer has none.
    Raises UserError where a run is resumed and would be longer or shorter than its schedule so far.
    """
    kind, given = _parts(make)
    follows: dict[str, Any] = {}
    if issubclass(kind, OneCycleLR) and not (given.get("total_steps") or given.get("epochs")):
        follows["total_steps"] = _total_steps(trainer)
        _refuse_another_length(kind, follows, trainer)
    elif issubclass(kind, CosineAnnealingLR) and not given.get("T_max"):
        if not trainer.max_epochs or trainer.max_epochs < 0:
            raise UserError(f"{kind.__name__}: give T_max (epochs), or trainer.max_epochs.")
        follows["T_max"] = trainer.max_epochs
        _refuse_another_length(kind, follows, trainer)
    if issubclass(kind, _PER_STEP):
        for name in ("base_lr", "max_lr"):
            if isinstance(given.get(name), int | float):
                follows[name] = [given[name] * group.get("lr_scale", 1.0) for group in optimizer.param_groups]
        # The command line gives torch's default, True, as if the user had; with these optimizers torch refuses it.
        if not {"momentum", "betas"} & optimizer.defaults.keys():
            follows["cycle_momentum"] = False
    try:
        made = make(optimizer, **follows)
    except ZeroDivisionError as error:  # torch divides by the number of warm-up steps less one
        raise UserError(
            f"{kind.__name__}: pct_start leaves a warm-up of one step: train for more steps, or change pct_start"
        ) from error
    config: LRSchedulerConfigType = {
        "scheduler": made,
        "interval": "step" if isinstance(made, _PER_STEP) else "epoch",
    }
    if isinstance(made, ReduceLROnPlateau):
        monitor = getattr(made, "monitor", "loss/val")  # Lightning's subclass names its own
        config["monitor"] = monitor
        if monitor.endswith("/val"):  # known only after epochs that are validated
            config["frequency"] = trainer.check_val_every_n_epoch or 1
    return config


def _total_steps(trainer: Trainer) -> int:
    steps = trainer.estimated_stepping_batches
    if trainer.ckpt_path is not None:
        # That made the training loader before the resumed run's place in the epoch is known, which Lightning tells to
        # new ones only (`FitLoop.setup_data`): have it made again.
        trainer.fit_loop._combined_loader = None
    if steps == float("inf"):
        raise UserError("OneCycleLR: give total_steps, or trainer.max_epochs or max_steps.")
    return int(steps)


def _refuse_another_length(kind: type, follows: dict[str, Any], trainer: Trainer) -> None:
    # Lightning puts the schedule's state back only later, and its length with it: a cosine would reach its end with the
    # old one and climb again from there, and OneCycleLR stop the run at its last step.
    for state in trainer._checkpoint_connector._loaded_checkpoint.get("lr_schedulers", []):
        for name, length in follows.items():
            if state.get(name, length) != length:
                raise UserError(
                    f"--resume: {kind.__name__} ends with the run's last epoch, so its length cannot change "
                    f"({name} is {state[name]} in the checkpoint, and {length} here): start a run from its weights: "
                    f"--model.init_from {trainer.ckpt_path}"
                )


def _parts(make: Callable[..., Any]) -> tuple[type, dict[str, Any]]:
    """The class that a partial makes and its keywords; jsonargparse's has the class among its arguments."""
    if isinstance(make, partial):
        for candidate in (make.func, *make.args):
            if isinstance(candidate, type) and issubclass(candidate, LRScheduler):
                return candidate, make.keywords
    return (make, {}) if isinstance(make, type) else (object, {})
