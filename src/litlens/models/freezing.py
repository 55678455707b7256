"""Keep frozen layers frozen, and unfreeze them at a chosen epoch."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy

# What optimizers and torch's schedules keep of a group's learning rate.
_RATES = ("lr", "initial_lr", "max_lr", "min_lr")


class Freezing(Callback):
    """Freezes the layers below the classifier's `first_trainable_layer(epoch)`, before every epoch and after a resume.

    What is fixed follows from the epoch alone; Lightning's `BaseFinetuning` forgets it on resume
    (https://github.com/Lightning-AI/pytorch-lightning/issues/21901). From the epoch of unfreezing on, every
    learning rate is multiplied by `unfreeze_lr_scale`, once: the optimizer's state says whether it has been.

    Under DDP every layer that trains at any time wants gradients when the reducer is made, before the first
    epoch: what the reducer has not seen is never synchronised.
    """

    def __init__(self) -> None:
        self._epoch: int | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Fix what never trains, before DDP looks, and tell DDP of layers that train later."""
        if stage != "fit":
            return
        self._epoch = None
        module: Any = pl_module
        # Modes come with the epochs: Lightning warns of layers that are in evaluation mode before.
        module.network.freeze_below(module.first_trainable_layer(None), modes=False)
        if module.unfreeze_epoch is not None and isinstance(trainer.strategy, DDPStrategy):
            trainer.strategy._ddp_kwargs["find_unused_parameters"] = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fix layers also where a run resumes within an epoch, whose start is not called again."""
        self._apply(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fix and unfreeze what this epoch says."""
        self._epoch = None
        self._apply(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Lightning's hook: an epoch that began without its start being called is seen here."""
        if trainer.current_epoch != self._epoch:
            self._apply(trainer, pl_module)

    def _apply(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module: Any = pl_module
        self._epoch = trainer.current_epoch
        module.network.freeze_below(module.first_trainable_layer(self._epoch))
        if module.unfreeze_epoch is None or self._epoch < module.unfreeze_epoch:
            return
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                if not group.get("unfrozen"):
                    group["unfrozen"] = True
                    group.update({key: group[key] * module.unfreeze_lr_scale for key in _RATES if key in group})
        for config in trainer.lr_scheduler_configs:
            schedule: Any = config.scheduler
            if not getattr(schedule, "unfrozen", False):
                schedule.unfrozen = True  # torch's schedules save all their attributes
                for name in ("base_lrs", "max_lrs"):  # the second is CyclicLR's
                    if hasattr(schedule, name):
                        setattr(schedule, name, [rate * module.unfreeze_lr_scale for rate in getattr(schedule, name)])
