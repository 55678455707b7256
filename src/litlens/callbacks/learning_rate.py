"""The learning rates of the parameter groups, logged."""

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer


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
