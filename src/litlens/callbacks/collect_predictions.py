"""Predictions of a pass over validation or test, from every device and in the order of the data."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor

from litlens.callbacks.live.drawing import names_of_classes, warn_once
from litlens.errors import UserError
from litlens.evaluation.predictions import Predictions

T = TypeVar("T")


class PassPredictions(Callback, ABC):
    """Collects the `logits` and `labels` that every step of a pass returns, and hands them on at its end.

    Of W devices, device r has samples r, r + W, r + 2W, ... of the split, without padding, so one may have one sample
    fewer than another, or none. A module whose steps do not return logits and labels is reported in one line, once.
    """

    def __init__(self) -> None:
        self._collecting = False
        self._missing = ""  # what the module should return
        self._batches: list[tuple[Tensor, Tensor]] = []

    @abstractmethod
    def is_wanted(self, trainer: Trainer, pl_module: LightningModule, split: str) -> bool:
        """Whether to collect the pass that begins over `val` or `test`; the same on every rank."""

    @abstractmethod
    def use(self, trainer: Trainer, pl_module: LightningModule, split: str, predictions: Predictions) -> None:
        """Use the complete predictions, with names such as `val/00042`; called on every rank."""

    def keep_batch(self, trainer: Trainer, batch: Any, logits: Tensor, labels: Tensor) -> None:
        """Keep one batch, on its device, so that no step waits for a copy."""
        self._batches.append((logits, labels))

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin("val", trainer, pl_module)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin("test", trainer, pl_module)

    def on_validation_batch_end(self, *args: Any) -> None:
        self._collect("validation_step", *args)

    def on_test_batch_end(self, *args: Any) -> None:
        self._collect("test_step", *args)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end("val", trainer, pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end("test", trainer, pl_module)

    def _begin(self, split: str, trainer: Trainer, module: LightningModule) -> None:
        self._collecting, self._missing = self.is_wanted(trainer, module, split), ""
        self._batches.clear()

    def _collect(
        self,
        step: str,
        trainer: Trainer,
        module: LightningModule,
        outputs: object,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not self._collecting or dataloader_idx:
            return
        found = outputs_of_step(outputs)
        if found is not None:
            self.keep_batch(trainer, batch, *found)
            return
        self._missing = f'{type(module).__name__}.{step} should return {{"logits": (B, K), "labels": int64 (B,)}}'
        warn_once(self, f"nothing to show: {self._missing}")

    def _end(self, split: str, trainer: Trainer, module: LightningModule) -> None:
        # A device without samples has missed nothing; it has to know that the others have.
        if self._collecting and not any(gathered(self._missing)):
            shard = None
            if self._batches:
                logits, labels = (torch.cat(parts).cpu().numpy() for parts in zip(*self._batches, strict=True))
                shard = logits, labels
            logits, labels, places = gather_in_order(shard)
            names = [f"{split}/{place:05d}" for place in places.tolist()]
            predictions = Predictions(logits, labels, names, names_of_classes(module, logits.shape[1]))
            self.use(trainer, module, split, predictions)
        self._batches.clear()


class CollectPredictions(PassPredictions):
    """Collects a test's predictions; `predictions` holds them afterwards, the same on every device.

    Names come from the data module's `samples("test")` where it has that, and otherwise count: `test/00000`. If the
    module's `test_step` does not return logits and labels, `predictions` raises UserError; before any test it is None.
    """

    def __init__(self) -> None:
        super().__init__()
        self._predictions: Predictions | None = None

    @property
    def predictions(self) -> Predictions | None:
        """The last test's predictions."""
        if self._missing:
            raise UserError(f"no predictions were collected: {self._missing}")
        return self._predictions

    def is_wanted(self, trainer: Trainer, pl_module: LightningModule, split: str) -> bool:
        return split == "test"

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._predictions = None
        super().on_test_epoch_start(trainer, pl_module)

    def use(self, trainer: Trainer, pl_module: LightningModule, split: str, predictions: Predictions) -> None:
        """Give every sample its name."""
        names = _names(trainer, predictions)
        self._predictions = Predictions(predictions.logits, predictions.labels, names, predictions.class_names)


def outputs_of_step(outputs: object) -> tuple[Tensor, Tensor] | None:
    """The logits float32 (B, K) and labels int64 (B,) that a step returned, or None if it returned anything else."""
    if not isinstance(outputs, Mapping):
        return None
    logits, labels = outputs.get("logits"), outputs.get("labels")
    if not isinstance(logits, Tensor) or not isinstance(labels, Tensor):
        return None
    if logits.ndim != 2 or logits.shape[:1] != labels.shape or labels.dtype != torch.int64:
        return None
    return logits.detach().float(), labels.detach()


def gathered(value: T) -> list[T]:
    """The values of all devices. A collective operation: every device must call it."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


Shard = tuple[NDArray[np.float32], NDArray[np.int64]]


def gather_in_order(shard: Shard | None) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Gather all devices' logits `(N, K)` and labels `(N,)` in the split's order, and their places in it `(N,)`.

    `shard` is this device's, in its order: its i-th sample is the split's sample `rank + i * world_size`.
    None if this device has no sample. A collective operation: every device must call it. Raises ValueError if
    no device has any.
    """
    shards = gathered(shard)
    filled = [(rank, *shard) for rank, shard in enumerate(shards) if shard is not None]
    if not filled:
        raise ValueError("the split had no samples")
    if len(shards) == 1:  # many classes take gigabytes: no copies
        _, logits, labels = filled[0]
        return logits, labels, np.arange(len(labels))
    places = np.concatenate([rank + np.arange(len(labels)) * len(shards) for rank, _, labels in filled])
    order = np.argsort(places)
    logits = np.concatenate([logits for _, logits, _ in filled])[order]
    labels = np.concatenate([labels for _, _, labels in filled])[order]
    return logits, labels, places[order]


def _names(trainer: Trainer, predictions: Predictions) -> Sequence[str]:
    samples = getattr(trainer.datamodule, "samples", None)  # type: ignore[attr-defined]
    if samples is None:
        return predictions.names
    split, number = samples("test"), len(predictions)
    # One batch (an int) is not the complete split (1.0, a fraction).
    complete = isinstance(trainer.limit_test_batches, float) and trainer.limit_test_batches == 1.0
    if number > len(split.names) or (complete and number != len(split.names)):
        raise RuntimeError(
            f"{number} predictions for {len(split.names)} test samples: some were repeated or are missing"
        )
    if not np.array_equal(predictions.labels, np.asarray(split.labels)[:number]):
        raise RuntimeError("the test's labels are not in the data module's order, so no sample can be named")
    return list(split.names[:number])
