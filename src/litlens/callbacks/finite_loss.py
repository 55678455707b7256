"""NaN and infinity in losses, gradients and weights: found before they spread, and reported with the samples."""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from litlens.callbacks.collect_predictions import gathered
from litlens.callbacks.learning_rate import learning_rates
from litlens.errors import UserError, listed

_LAG = 8  # optimizer steps; after so many a copy from a GPU has arrived, unless the GPU is that far behind the host
_REMEDY = "Lower the learning rate, warm it up, or set trainer.gradient_clip_val"


class NotFiniteError(UserError):
    """A loss, a gradient or a weight is NaN or infinite.

    Args:
        message: what, where, and what to do.
        step: the optimizer step, counted from 0 over the run; None in validation.
    """

    def __init__(self, message: str, step: int | None = None) -> None:
        super().__init__(message)
        self.step = step


@dataclass(frozen=True)
class _Step:
    """The losses of an optimizer step's batches, and the norms of its gradients."""

    epoch: int
    step: int
    batches: range
    losses: int
    values: Tensor
    copied: torch.cuda.Event | None


class FiniteLoss(Callback):
    """Stops a run by NotFiniteError where a loss, a gradient or a weight is NaN or infinite.

    - The loss of each batch, and the total norm of the gradients before clipping, are checked before the optimizer's
      step. With a GradScaler (16-mixed) only the loss is: infinite gradients are how it finds its scale. The running
      statistics of batch norm are put back to what they were before the step.
    - The weights are checked before each checkpoint and at the end of each epoch: finite gradients can
      overflow them. A checkpoint that would hold bad numbers is not written.
    - In validation, the loss and logits that the steps return are checked at its end, or where they return neither, the
      metrics that callbacks monitor.

    On a GPU, reading a number at once would make the host wait in every step. There the numbers of a step are read
    some steps later, or before the next checkpoint; by then the weights have been changed. As the lag is the same on
    every device and so is the norm of the gradients, all stop in the same step, and all report the samples of the
    device with the bad loss.

    Args:
        lag: How many steps later the numbers of a step are read; by default 8 on a GPU, else 0.
    """

    def __init__(self, lag: int | None = None) -> None:
        self.lag = lag
        self._reset()

    def _reset(self) -> None:
        self._batch: Any = None
        self._batches = range(0)  # of the current step, up to the current one
        self._losses: list[Tensor] = []
        self._unread: deque[_Step] = deque()
        self._late: NotFiniteError | None = None
        self._statistics: tuple[list[Tensor], list[Tensor]] | None = None
        self._validated: list[tuple[int, list[Tensor]]] = []
        self._unchecked = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget an earlier fit."""
        self._reset()

    # Training

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look for the layers in training again: they may have been frozen."""
        self._statistics = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Copy the running statistics before the first batch of a step."""
        first = batch_idx - batch_idx % trainer.accumulate_grad_batches
        self._batches = range(first, batch_idx + 1)
        if self._lag_on(trainer, pl_module.device):
            return
        self._batch = batch
        if self._statistics is None:
            statistics = list(_running_statistics(pl_module, frozen=False).values())
            self._statistics = statistics, [value.clone() for value in statistics]
        elif batch_idx == first and self._statistics[0]:
            statistics, copies = self._statistics
            torch._foreach_copy_(copies, statistics)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Keep the batch's loss for the check before the step."""
        self._losses.append(loss.detach())

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Check the step, or on a GPU start copying its numbers and check an earlier step."""
        losses, self._losses = self._losses, []
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        norms = () if scaled or not grads else torch._foreach_norm(_normable(grads))
        like = norms[0] if norms else torch.zeros((), device=pl_module.device)
        values = torch.stack([*(loss.to(like).reshape(()) for loss in losses), *norms])
        lag, copied = self._lag_on(trainer, values.device), None
        if lag and values.is_cuda:
            values = values.to("cpu", non_blocking=True)  # pinned
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record()
        place = trainer.current_epoch, trainer.global_step, self._batches
        self._unread.append(_Step(*place, losses=len(losses), values=values, copied=copied))
        self._read(trainer, keep=lag)

    def on_train_batch_end(self, *args: Any) -> None:
        """Let go of the batch."""
        self._batch = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the remaining steps and the weights, whether a checkpoint is written or not."""
        self._check_state(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse to write what the checks would have stopped."""
        self._check_state(trainer, pl_module)

    def _lag_on(self, trainer: Trainer, device: torch.device) -> int:
        # Lightning calls no `on_save_checkpoint` of a callback for files of weights alone (`dump_checkpoint`).
        if any(getattr(callback, "save_weights_only", False) for callback in trainer.checkpoint_callbacks):
            return 0
        return self.lag if self.lag is not None else _LAG * (device.type == "cuda")

    def _read(self, trainer: Trainer, *, keep: int) -> None:
        """Check the steps that have not been, but for the newest `keep`."""
        while len(self._unread) > keep:
            step = self._unread.popleft()
            if step.copied is not None:
                step.copied.synchronize()
            values = step.values.tolist()
            if not all(map(math.isfinite, values)):
                self._stop(trainer, step, values)

    def _stop(self, trainer: Trainer, step: _Step, values: list[float]) -> None:
        losses, norm = values[: step.losses], math.hypot(*values[step.losses :])
        bad = next((place for place, loss in enumerate(losses) if not math.isfinite(loss)), None)
        if bad is None:
            what, batches = f"the total norm of the gradients became {norm}", step.batches
        else:
            # Where a module optimizes by hand, a batch may have several losses.
            what, batches = f"the training loss became {losses[bad]}", step.batches[bad:][:1] or step.batches[-1:]
        rates = ", ".join(f"{name} {rate:.3g}" for name, rate in learning_rates(trainer.optimizers).items())
        late = trainer.global_step != step.step
        # The batch at hand is the step's last one.
        batch = self._batch if not late and batches[-1] == step.batches[-1] else None
        finite, loader = _finite_rows(batch), trainer.train_dataloader
        samples, found = _samples(trainer, loader, "train", step.epoch, batches, finite)
        remedy = "These values are not finite: fix or remove them" if found else _REMEDY
        if late:
            after = "no checkpoint was written since"
        else:
            after = "the weights are as before this step"
            if self._statistics is not None and self._statistics[0]:
                torch._foreach_copy_(*self._statistics)
        line = f"{what} in epoch {step.epoch}, step {step.step} ({rates}), {samples}; {after}. {remedy}"
        if not math.isfinite(norm):  # on every device, then
            _, line = min(gathered((bad is None, line)), key=lambda found: found[0])  # a bad loss says more
        error = NotFiniteError(line, step.step)
        self._late = error if late else None
        raise error

    def _check_state(self, trainer: Trainer, module: LightningModule) -> None:
        self._read(trainer, keep=0)
        if self._late is not None:  # by then the weights had been changed
            raise self._late
        state = {**dict(module.named_parameters()), **_running_statistics(module, frozen=True)}
        state = {
            name: value.detach()
            for name, value in state.items()
            if not is_lazy(value) and (value.is_floating_point() or value.is_complex())
        }
        if not math.isfinite(_total_norm(state.values()).item()):
            names = [name for name, value in state.items() if not math.isfinite(_total_norm([value]).item())]
            step = trainer.global_step - 1
            raise NotFiniteError(
                f"weights became NaN or infinite by step {step}, in epoch {trainer.current_epoch}: "
                f"{listed(names or state, most=3)}; no checkpoint holds them. {_REMEDY}",
                step,
            )

    # Validation

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the remaining steps, so that a step is not reported as a validation."""
        self._validated.clear()
        self._read(trainer, keep=0)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Find without waiting which loss and logits are finite."""
        found = [outputs.get(key) for key in ("logits", "loss")] if isinstance(outputs, Mapping) else [outputs]
        finite = [value.detach().isfinite() for value in found if isinstance(value, Tensor)]
        if trainer.state.fn == TrainerFn.FITTING and finite:
            self._validated.append((batch_idx, finite))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop where a batch was not finite."""
        validated, self._validated = self._validated, []
        line = None
        flags = torch.stack([flag.all() for _, finite in validated for flag in finite]).tolist() if validated else []
        if not all(flags):
            batch_idx, finite = next(found for found in validated if not all(flag.all() for flag in found[1]))
            epoch, loader = trainer.current_epoch, trainer.val_dataloaders
            rows = next((flag.flatten(1).all(1) for flag in finite if flag.ndim > 1), None)
            samples, _ = _samples(trainer, loader, "val", epoch, range(batch_idx, batch_idx + 1), rows)
            line = (
                f"the validation loss or logits became NaN or infinite in epoch {epoch}, {samples}. {_REMEDY}, "
                "or check these samples"
            )
        if trainer.state.fn == TrainerFn.FITTING and (line := _first_of_all_devices(line)) is not None:
            raise NotFiniteError(line)
        self._unchecked = not validated

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Where the steps returned nothing to check, stop where a monitored metric is not finite."""
        if trainer.state.fn != TrainerFn.FITTING or not self._unchecked:
            return
        monitors = (getattr(callback, "monitor", None) for callback in trainer.callbacks)  # type: ignore[attr-defined]
        for name in monitors:
            value = trainer.callback_metrics.get(name) if isinstance(name, str) else None
            if value is not None and not value.isfinite().all():
                raise NotFiniteError(f"{name} became {value.item()} in epoch {trainer.current_epoch}. {_REMEDY}")


def _running_statistics(module: nn.Module, *, frozen: bool) -> dict[str, Tensor]:
    """The running statistics of the batch norms, by name, with or without those that are not in training."""
    return {
        f"{name}.{key}": value
        for name, part in module.named_modules()
        if isinstance(part, _NormBase) and (frozen or part.training)
        for key, value in part.named_buffers(recurse=False)
        if not is_lazy(value)
    }


def _total_norm(tensors: Iterable[Tensor]) -> Tensor:
    """Their 2-norm together."""
    return get_total_norm(_normable(tensors))


def _normable(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Dense ones, in float32 at least: a norm overflows float16 at 65,504."""
    dense = (tensor.coalesce().values() if tensor.is_sparse else tensor for tensor in tensors)
    return [tensor.float() if tensor.dtype == torch.float16 else tensor for tensor in dense]


def _first_of_all_devices(line: str | None) -> str | None:
    """The line of the first device that has one. A collective: every device has to call it."""
    return next((found for found in gathered(line) if found is not None), None)


def _finite_rows(batch: Any) -> Tensor | None:
    """Which samples of a batch have finite values: bool (B,); None where no tensor holds one a row."""
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else [batch]
    images = [part for part in parts if isinstance(part, Tensor) and part.is_floating_point() and part.ndim > 1]
    return images[0].isfinite().flatten(1).all(dim=1) if images else None


def _samples(
    trainer: Trainer, loader: Any, split: str, epoch: int, batches: range, finite: Tensor | None
) -> tuple[str, bool]:
    """Name the samples of some batches of an epoch, or those of the last batch that are not `finite`, if any.

    Returns the phrase, and whether such samples were found. Names are known of the loaders of litlens alone.
    """
    phrase = f"batch {batches[0]}" if len(batches) == 1 else f"batches {batches[0]} to {batches[-1]}"
    indices, samples = getattr(loader, "indices", None), getattr(trainer.datamodule, "samples", None)  # type: ignore[attr-defined]
    bad = [] if finite is None else (~finite).nonzero().flatten().tolist()
    if indices is None or samples is None:
        return phrase + (f", sample {listed(bad, most=3)} of it" if bad else ""), bool(bad)
    names, of_batches = samples(split).names, indices(epoch)
    if bad:
        culprits = [names[of_batches[batches[-1]][place]] for place in bad]
        return f"batch {batches[-1]}, in {listed(culprits, most=3)}", True
    all_names = [names[index] for batch in batches for index in of_batches[batch]]
    return f"{phrase} ({listed(all_names, most=3)})", False
