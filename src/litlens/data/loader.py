"""From a split to batches, in the order that `order.py` says and at any point of it.

Batches are fetched whole: one index array, one slice of a uint8 array, one normalization.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from litlens.data import order
from litlens.data.augment import Augmentation
from litlens.data.preprocessing import Pixels, Preprocessing
from litlens.data.split import Split
from litlens.errors import UserError

Batch = tuple[Tensor, Tensor]
# What a sampler asks a dataset for. The epoch travels with the indices, so that workers hold no state to go stale.
_Request = tuple[int, order.Indices]


class BatchDataset(Dataset[Batch], ABC):
    """A split that is fetched by the batch; its order and augmentation follow from `seed`."""

    seed: int

    @abstractmethod
    def __len__(self) -> int:
        """How many samples there are."""

    @abstractmethod
    def fetch(self, request: _Request) -> Batch:
        """The samples of an epoch that are asked for, as a batch."""

    def __getitems__(self, request: _Request) -> Batch | UserError:
        """PyTorch's hook for fetching a batch at once; in a worker, a user's mistake takes the batch's place."""
        try:
            return self.fetch(request)
        except UserError as error:
            # Raised in a worker, it would come out of PyTorch with the worker's traceback for a message, or as a
            # RuntimeError: as a value it comes out as it is, and the loaders raise it.
            if get_worker_info() is None:
                raise
            return error


class SplitDataset(BatchDataset):
    """One split as a dataset that is fetched by the batch: normalized images and labels, augmented where asked."""

    def __init__(
        self, split: Split, *, preprocessing: Preprocessing, augmentation: Augmentation | None = None, seed: int = 0
    ) -> None:
        self.split = split
        self.preprocessing = preprocessing
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """One sample as evaluation sees it: float32 (C, H, W) and an int64 scalar."""
        images, labels = self._fetch(np.array([index]), epoch=None)
        return images[0], labels[0]

    def fetch(self, request: _Request) -> Batch:
        """The samples of an epoch that are asked for, as a batch."""
        epoch, indices = request
        return self._fetch(indices, epoch=epoch)

    def pixels(self, indices: order.Indices, *, epoch: int | None) -> Pixels:
        """Images at the network's size, uint8 (B, H, W, C), as augmented in `epoch`; None means not at all."""
        if self.augmentation is None or epoch is None:
            return self.split.images.batch(self.split.rows[indices])
        rngs = [order.augmentation_rng(seed=self.seed, epoch=epoch, index=int(index)) for index in indices]
        return np.stack([self.augmented(int(index), rng) for index, rng in zip(indices, rngs, strict=True)])

    def augmented(self, index: int, rng: np.random.Generator) -> Pixels:
        """What augmentation makes of a sample and a random generator: uint8 (H, W, C)."""
        assert self.augmentation is not None
        images, row = self.split.images, int(self.split.rows[index])
        # A crop takes the place of the geometry, so it needs the image as it was.
        image = images.original(row) if self.augmentation.crops else images.batch(np.array([row]))[0]
        return self.augmentation(image, rng)

    def _fetch(self, indices: order.Indices, *, epoch: int | None) -> Batch:
        images = self.preprocessing.normalize(self.pixels(indices, epoch=epoch))
        return images, torch.from_numpy(self.split.labels[indices])


class TrainingLoader(DataLoader[Batch]):
    """Batches of one epoch after the other; its place in an epoch is saved and restored by Lightning.

    Lightning resumes a plain loader at the start of the epoch (its `CombinedLoader` saves only loaders that have a
    `state_dict`). This one starts at the batch that comes next, without fetching those before it.
    """

    def __init__(
        self, dataset: BatchDataset, *, batch_size: int, num_workers: int = 0, trainer: Trainer | None = None
    ) -> None:
        self._batches = _TrainingBatches(dataset, batch_size=batch_size, trainer=trainer)
        self._position = {"epoch": 0, "batches": 0}
        self._resume_at: dict[str, int] | None = None
        super().__init__(
            dataset,
            batch_sampler=self._batches,
            num_workers=num_workers,
            collate_fn=_as_fetched,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            # PyTorch draws a seed for every iterator; from a generator of its own, no dropout notices it.
            generator=torch.Generator(),
        )

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        # A generator, so that nothing runs before the first batch is asked for: Lightning makes its iterator while a
        # resumed trainer still names the epoch before (https://github.com/Lightning-AI/pytorch-lightning/issues/21938).
        epoch = self._batches.next_epoch()
        resume_at, self._resume_at = self._resume_at, None
        start = resume_at["batches"] if resume_at and resume_at["epoch"] == epoch else 0
        self._batches.begin(epoch=epoch, start=start)
        self._position = {"epoch": epoch, "batches": start}
        for batch in map(_told, super().__iter__()):
            self._position["batches"] += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The epoch under way and how many of its batches were handed out."""
        return dict(self._position)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the batches that `state` counts, if its epoch is the one that comes next."""
        self._resume_at = dict(state)


class EvaluationLoader(DataLoader[Batch]):
    """A split once, in its own order, shared out between ranks without repeating a sample."""

    def __init__(
        self, dataset: BatchDataset, *, batch_size: int, num_workers: int = 0, trainer: Trainer | None = None
    ) -> None:
        super().__init__(
            dataset,
            batch_sampler=_EvaluationBatches(dataset, batch_size=batch_size, trainer=trainer),
            num_workers=num_workers,
            collate_fn=_as_fetched,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            # PyTorch draws a seed for every iterator; from a generator of its own, no dropout notices it.
            generator=torch.Generator(),
        )

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        return map(_told, super().__iter__())


class _TrainingBatches(Sampler[Any]):
    def __init__(self, dataset: BatchDataset, *, batch_size: int, trainer: Trainer | None) -> None:
        self.dataset, self.batch_size, self.trainer = dataset, batch_size, trainer
        self._epoch, self._start, self._counted = 0, 0, -1

    def next_epoch(self) -> int:
        """The epoch that an iterator made now belongs to: the trainer's, or counted where there is no trainer."""
        if self.trainer is None:
            self._counted += 1
            return self._counted
        # To overfit, Lightning takes the same few batches again and again: the first ones of the first epoch.
        overfitting = self.trainer.overfit_batches  # type: ignore[attr-defined]  # set by a connector
        return 0 if overfitting else self.trainer.current_epoch

    def begin(self, *, epoch: int, start: int) -> None:
        self._epoch, self._start = epoch, start

    def __len__(self) -> int:
        _, world_size = _place(self.trainer)
        return order.training_batches(size=len(self.dataset), batch_size=self.batch_size, world_size=world_size)

    def __iter__(self) -> Iterator[_Request]:
        rank, world_size = _place(self.trainer)
        indices = order.training_indices(
            seed=self.dataset.seed,
            epoch=self._epoch,
            size=len(self.dataset),
            batch_size=self.batch_size,
            rank=rank,
            world_size=world_size,
        )
        for batch in indices.reshape(-1, self.batch_size)[self._start :]:
            yield self._epoch, batch


class _EvaluationBatches(Sampler[Any]):
    def __init__(self, dataset: BatchDataset, *, batch_size: int, trainer: Trainer | None) -> None:
        self.dataset, self.batch_size, self.trainer = dataset, batch_size, trainer

    def _indices(self) -> order.Indices:
        rank, world_size = _place(self.trainer)
        return order.evaluation_indices(size=len(self.dataset), rank=rank, world_size=world_size)

    def __len__(self) -> int:
        return -(-len(self._indices()) // self.batch_size)

    def __iter__(self) -> Iterator[_Request]:
        indices = self._indices()
        for start in range(0, len(indices), self.batch_size):
            yield 0, indices[start : start + self.batch_size]


def _place(trainer: Trainer | None) -> tuple[int, int]:
    return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)


def _as_fetched(batch: Any) -> Any:
    """The batch as it is: the dataset made it whole."""
    return batch


def _told(batch: Batch | UserError) -> Batch:
    """The batch, or raise the mistake that a worker met in its place."""
    if isinstance(batch, UserError):
        raise batch
    return batch
