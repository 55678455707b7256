"""Collects what a test yields, from every device and in the order of the data, as `Predictions`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor

from litlens.callbacks.live.drawing import names_of_classes, outputs_of_step, warn_of_outputs
from litlens.errors import UserError
from litlens.evaluation.predictions import Predictions


class CollectPredictions(Callback):
    """Collects the `logits` and `labels` that every `test_step` returns; `predictions` holds them afterwards.

    Of W devices, device r tests samples r, r + W, r + 2W, ... of the split, without padding, so one may have
    a sample less than another. None may have no sample at all: Lightning stops there, and where it is told not
    to, that device skips the whole test, hooks and all, while the others wait for it in theirs. Names come from
    the data module's `samples("test")` where it has that, and otherwise count: `test/00000`. Every device has
    the same predictions in the end. A module whose `test_step` returns neither is reported in one line, once, and
    `predictions` raises UserError then; before any test it is None.
    """

    def __init__(self) -> None:
        self._predictions: Predictions | None = None
        self._missing = ""
        self._logits: list[Tensor] = []
        self._labels: list[Tensor] = []

    @property
    def predictions(self) -> Predictions | None:
        """The last test's predictions."""
        if self._missing:
            raise UserError(f"no predictions were collected: {self._missing}")
        return self._predictions

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._predictions, self._missing = None, ""
        self._logits.clear()
        self._labels.clear()

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Tensor | Mapping[str, Any] | None,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep one batch, on its device, so that no step waits for a copy."""
        found = outputs_of_step(outputs)
        if found is None:
            warn_of_outputs(self, pl_module, "test")
            self._missing = f'{type(pl_module).__name__}.test_step should return {{"logits": ..., "labels": ...}}'
            return
        self._logits.append(found[0])
        self._labels.append(found[1])

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather over the devices and name every sample."""
        if self._missing:
            return
        shard = None
        if self._logits:
            shard = torch.cat(self._logits).cpu().numpy(), torch.cat(self._labels).cpu().numpy()
        self._logits.clear()
        self._labels.clear()
        logits, labels, places = gather_in_order(shard)
        class_names = names_of_classes(pl_module, logits.shape[1])
        names = _names(trainer, places, labels)
        self._predictions = Predictions(logits, labels, names, class_names)


Shard = tuple[NDArray[np.float32], NDArray[np.int64]]


def gather_in_order(shard: Shard | None) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """All devices' logits `(N, K)` and labels `(N,)` in the split's order, and their places in it `(N,)`.

    `shard` is this device's, in its order: its i-th sample is the split's sample `rank + i * world_size`.
    None where this device had no sample. A collective: every device has to call it. Raises ValueError where
    no device had any.
    """
    shards: list[Shard | None] = [shard]
    if dist.is_available() and dist.is_initialized():
        shards = [None] * dist.get_world_size()
        dist.all_gather_object(shards, shard)
    filled = [(rank, *shard) for rank, shard in enumerate(shards) if shard is not None]
    if not filled:
        raise ValueError("the test had no samples")
    places = np.concatenate([rank + np.arange(len(labels)) * len(shards) for rank, _, labels in filled])
    order = np.argsort(places)
    logits = np.concatenate([logits for _, logits, _ in filled])[order]
    labels = np.concatenate([labels for _, _, labels in filled])[order]
    return logits, labels, places[order]


def _names(trainer: Trainer, places: NDArray[np.int64], labels: NDArray[np.int64]) -> Sequence[str]:
    samples = getattr(trainer.datamodule, "samples", None)  # type: ignore[attr-defined]
    if samples is None:
        return [f"test/{place:05d}" for place in places]
    split = samples("test")
    # One batch (an int) is not the complete split (a share of 1.0).
    complete = isinstance(trainer.limit_test_batches, float) and trainer.limit_test_batches == 1.0
    if places[-1] >= len(split.names) or (complete and len(places) != len(split.names)):
        raise RuntimeError(f"{len(places)} predictions for {len(split.names)} test samples: some were repeated or lost")
    if not np.array_equal(labels, np.asarray(split.labels)[places]):
        raise RuntimeError("the test's labels are not in the data module's order, so no sample can be named")
    return [split.names[place] for place in places]
