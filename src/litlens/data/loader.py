"""From a split to batches, in the order that `sampling` gives and from any point of it.

A batch is fetched at once: one index array, one slice of a uint8 array. It is normalized last, in this process or on
the device that trains.
"""

import copy
import itertools
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerStatus
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from litlens.data import sampling
from litlens.data.batch_memory import BatchMemory, in_threads, look_up, normalized, number_of_threads
from litlens.data.preprocessing import Pixels, Preprocessing
from litlens.data.split import ArrayImages, Split
from litlens.errors import UserError

if TYPE_CHECKING:
    from litlens.data.augment import Augmentation

Batch = tuple[Tensor, Tensor]
# An epoch and the indices of a batch. The epoch goes with the indices, so that no state of a worker can be outdated.
Request = tuple[int, sampling.Indices]
_CHUNK = 2**25  # bytes of float32 images that are indexed and normalized on a device at once


class BatchDataset(Dataset[Any], ABC):
    """A split that is fetched by the batch; its order and augmentation follow from `seed`."""

    seed: int
    preprocessing: Preprocessing

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def fetch(self, request: Request) -> tuple[Any, Tensor]:
        """Images uint8 (B, H, W, C), or their cached features, and labels int64 (B,)."""

    def __getitem__(self, request: Request) -> tuple[Any, Tensor] | UserError:
        try:
            return self.fetch(request)
        except UserError as error:
            # PyTorch would raise it again with the worker's traceback as its message, or as a RuntimeError. The loader
            # raises what is returned.
            if get_worker_info() is None:
                raise
            return error


@dataclass(eq=False)
class SplitDataset(BatchDataset):
    """One split as a dataset that is fetched by the batch, augmented where there is an augmentation."""

    split: Split
    preprocessing: Preprocessing
    augmentation: "Augmentation | None" = None
    seed: int = 0
    _of_threads: "list[Augmentation]" = field(default_factory=list, init=False)  # a chain of albumentations has a state

    def __len__(self) -> int:
        return len(self.split)

    def fetch(self, request: Request) -> Batch:  # noqa: D102  (the base's)
        epoch, indices = request
        return torch.from_numpy(self.pixels(indices, epoch=epoch)), torch.from_numpy(self.split.labels[indices])

    @property
    def table(self) -> Pixels | None:
        """The array that batches are taken from as they are: uint8 (N, H, W, C); None where there is more to do."""
        images = self.split.images
        return images.pixels if self.augmentation is None and isinstance(images, ArrayImages) else None

    def pixels(self, indices: sampling.Indices, *, epoch: int) -> Pixels:
        """Images at the network's size, uint8 (B, H, W, C), augmented for `epoch` where there is an augmentation."""
        if self.augmentation is None:
            return self.split.images.batch(self.split.rows[indices])
        pixels = np.empty(self._shape(indices), np.uint8)
        self._augment(self.augmentation, indices, epoch, pixels.__setitem__)
        return pixels

    def normalized(self, augmentation: "Augmentation", request: Request, memory: BatchMemory) -> Batch:
        """As `fetch`, with each image normalized as soon as it is augmented: float32 (B, C, H, W)."""
        epoch, indices = request
        floats, table = memory.take(self._shape(indices)), self.preprocessing.normalize.table
        numbers = floats.numpy()
        self._augment(augmentation, indices, epoch, lambda place, image: look_up(image, table, numbers[place]))
        return floats.permute(0, 3, 1, 2), torch.from_numpy(self.split.labels[indices])

    def _shape(self, indices: sampling.Indices) -> tuple[int, ...]:
        return len(indices), *self.preprocessing.resize.size, self.preprocessing.channels

    def _augment(
        self, augmentation: "Augmentation", indices: sampling.Indices, epoch: int, put: Callable[[int, Pixels], None]
    ) -> None:
        """Augment the images of a batch and hand each on, with its place in the batch."""
        chains = self._of_threads
        while len(chains) < number_of_threads(self.preprocessing.resize.size):
            chains.append(copy.deepcopy(augmentation))

        def augment(thread: int, places: range) -> None:
            for place in places:
                put(place, self._augmented(chains[thread], int(indices[place]), epoch))

        in_threads(augment, self._shape(indices))

    def _augmented(self, augmentation: "Augmentation", index: int, epoch: int) -> Pixels:
        images, row = self.split.images, int(self.split.rows[index])
        # A crop replaces the resize, so it needs the original image.
        image = images.original(row) if augmentation.crops else images.batch(np.array([row]))[0]
        rng = sampling.augmentation_rng(seed=self.seed, epoch=epoch, index=index)
        flipped = augmentation.alternates and (sampling.flips_first(seed=self.seed, index=index) + epoch) % 2 == 1
        return augmentation(image, rng, flipped=flipped)


class _Loader(ABC):
    """Batches `(images, labels)`: float32 (B, C, H, W), normalized, and int64 (B,); features are not changed.

    Not a `DataLoader` itself: Lightning would replace its sampler by one that repeats samples in a distributed run
    (https://github.com/Lightning-AI/pytorch-lightning/issues/21859) and rebuild it for `trainer.predict`.

    Args:
        dataset: The split.
        batch_size: Samples in a batch, on each device.
        num_workers: Processes that fetch batches.
        trainer: Gives epoch, rank and world size.
        device: Where the batches are sent to; None yields them for the CPU. Images are uint8 (B, H, W, C), to be
            normalized there.
        hold: Whether the images, one array that is not augmented, are held on the device. Batches are on the device
            and normalized.
    """

    def __init__(
        self,
        dataset: BatchDataset,
        *,
        batch_size: int,
        num_workers: int = 0,
        trainer: Trainer | None = None,
        device: torch.device | None = None,
        hold: bool = False,
    ) -> None:
        self.dataset, self.batch_size, self.trainer = dataset, batch_size, trainer
        self._num_workers, self._device, self._hold = num_workers, device, hold
        self._held: _Held | None = None
        self._requests = _Requests()
        self._fetching: DataLoader[Any] = DataLoader(
            dataset,
            batch_size=None,
            sampler=self._requests,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            # PyTorch draws a seed for every iterator; from a generator of its own, no dropout notices it.
            generator=torch.Generator(),
        )

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __iter__(self) -> Iterator[Batch]: ...

    @abstractmethod
    def indices(self, epoch: int) -> list[sampling.Indices]:
        """The samples of each batch of an epoch on this rank, as indices of the split."""

    def _batches(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        requests = [(epoch, chosen) for chosen in self.indices(epoch)[start:]]
        dataset, memory, is_for_cpu = self.dataset, BatchMemory(), self._device is None
        if is_for_cpu and self._num_workers == 0 and isinstance(dataset, SplitDataset) and dataset.augmentation:
            yield from (dataset.normalized(dataset.augmentation, request, memory) for request in requests)
            return
        for images, labels in self._fetched(requests):
            if is_for_cpu and isinstance(images, Tensor) and images.dtype == torch.uint8:
                images = normalized(images, dataset.preprocessing.normalize, memory)
            yield images, labels

    def _fetched(self, requests: list[Request]) -> Iterator[Batch]:
        dataset = self.dataset
        table = dataset.table if isinstance(dataset, SplitDataset) else None
        if self._hold and isinstance(dataset, SplitDataset) and table is not None:
            self._held = self._held or _Held(table, dataset, self._device)
            yield from self._held.batches(requests)
        elif self._num_workers == 0 and self._device is None:
            yield from map(dataset.fetch, requests)
        else:
            self._requests.current = requests
            try:
                for batch in self._fetching:
                    if isinstance(batch, UserError):
                        raise batch
                    yield batch
            except Exception:
                self._end_workers()
                raise

    def _end_workers(self) -> None:
        # Later the garbage collector would, after the queue that tells them to end, and wait five seconds for each:
        # the error's traceback and this generator hold each other.
        if self._iterator is not None:
            self._iterator._shutdown_workers()
            self._iterator = None

    @property
    def _iterator(self) -> Any:
        # At the end of its loop Lightning ends the workers by this attribute of a `DataLoader`, for the same reason.
        return self._fetching._iterator

    @_iterator.setter
    def _iterator(self, iterator: Any) -> None:
        self._fetching._iterator = iterator

    @property
    def _world_size(self) -> int:
        return self.trainer.world_size if self.trainer is not None else 1

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer is not None else 0


class _Held:
    """A split that is held on a device, where its batches are indexed and normalized, many of them at a time."""

    def __init__(self, table: Pixels, dataset: SplitDataset, device: torch.device | None) -> None:
        rows, shape = dataset.split.rows, table.shape[1:]
        self._normalize = dataset.preprocessing.normalize
        self._labels = torch.from_numpy(dataset.split.labels).to(device)
        self._images = torch.empty((len(rows), *shape), dtype=torch.uint8, device=device)
        at_once = max(1, _CHUNK // math.prod(shape))
        for start in range(0, len(rows), at_once):
            part = slice(start, start + at_once)
            self._images[part] = torch.from_numpy(table[rows[part]])

    def batches(self, requests: list[Request]) -> Iterator[Batch]:
        # The order is copied once an epoch: a copy in every step would make the host wait for the device.
        order = torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *(indices for _, indices in requests)]))
        order = order.to(self._labels.device)
        sizes = [len(indices) for _, indices in requests]
        ends = list(itertools.accumulate(sizes, initial=0))
        at_once = max(1, _CHUNK // (4 * math.prod(self._images.shape[1:]) * max(sizes, default=1)))
        for first in range(0, len(sizes), at_once):
            of_chunk = sizes[first : first + at_once]
            rows = order[ends[first] : ends[first + len(of_chunk)]]
            images, labels = self._normalize(self._images[rows]), self._labels[rows]
            yield from zip(torch.split(images, of_chunk), torch.split(labels, of_chunk), strict=True)


class _Requests:
    """A sampler of the requests of the next iteration; an iteration that has begun keeps its own."""

    def __init__(self) -> None:
        self.current: list[Request] = []

    def __iter__(self) -> Iterator[Request]:
        return iter(self.current)


class TrainingLoader(_Loader):
    """Batches of one epoch after the other; Lightning saves and restores the position in an epoch.

    Lightning resumes a plain loader at the start of the epoch (its `CombinedLoader` saves only loaders that have a
    `state_dict`). This one starts at the batch that comes next, without fetching those before it.

    Args:
        dataset: The split.
        epochs: Counts the epochs where no trainer runs.
        balance: The labels of the split where an epoch has each class equally often.
        **options: As for every loader.
    """

    def __init__(
        self,
        dataset: BatchDataset,
        *,
        epochs: Iterator[int] | None = None,
        balance: sampling.Indices | None = None,
        **options: Any,
    ) -> None:
        super().__init__(dataset, **options)
        self._epochs = iter(range(sys.maxsize)) if epochs is None else epochs
        self._balance = balance
        self._epoch = self._batches_done = 0
        self._resume_at: dict[str, Any] | None = None

    def __len__(self) -> int:
        return self._shape[0]

    @property
    def _shape(self) -> tuple[int, int]:
        """Batches of this rank in an epoch, and images in each."""
        size, world_size = len(self.dataset), self._world_size
        return sampling.training_shape(size=size, batch_size=self.batch_size, world_size=world_size)

    def __iter__(self) -> Iterator[Batch]:
        # A generator, so that nothing runs before the first batch is asked for: Lightning makes its iterator while a
        # resumed trainer still names the epoch before (https://github.com/Lightning-AI/pytorch-lightning/issues/21938).
        trainer = self.trainer if is_running(self.trainer) else None
        epoch = next(self._epochs) if trainer is None else trainer.current_epoch
        start = self._start(epoch)
        self._epoch, self._batches_done = epoch, start
        for batch in self._batches(epoch, start=start):
            self._batches_done += 1
            yield batch

    def indices(self, epoch: int) -> list[sampling.Indices]:  # noqa: D102  (the base's)
        # To overfit, Lightning takes the same few batches again and again: the first ones of the first epoch.
        trainer = self.trainer if is_running(self.trainer) else None
        overfits = trainer is not None and trainer.overfit_batches  # type: ignore[attr-defined]  # set by a connector
        indices = sampling.training_indices(
            seed=self.dataset.seed,
            epoch=0 if overfits else epoch,
            size=len(self.dataset),
            batch_size=self.batch_size,
            rank=self._rank,
            world_size=self._world_size,
            balance=self._balance,
        )
        return list(indices)

    def state_dict(self) -> dict[str, Any]:
        """The current epoch, how many of its batches were yielded, and what its order follows from."""
        if self._resume_at is not None:  # a resumed run that validates first
            return self._resume_at
        return {"epoch": self._epoch, "batches": self._batches_done, "of": len(self), "order": self._order}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume after the batches that `state` counts, if its epoch is the one that comes next.

        Raises UserError where it is within an epoch whose order would now be another one.
        """
        # Checked here, too: where the other order has fewer batches, Lightning would consider the epoch finished.
        if 0 < state["batches"] < state["of"]:
            self._refuse_another_order(state)
        self._resume_at = dict(state)

    def _start(self, epoch: int) -> int:
        """The batch to begin with: 0 except in the first epoch after a resume."""
        resume_at, self._resume_at = self._resume_at, None
        if resume_at is None:
            return 0
        if resume_at["epoch"] == epoch:
            return len(self) if resume_at["batches"] == resume_at["of"] else int(resume_at["batches"])
        # Of a checkpoint written in an epoch's last step, Lightning (2.6) counts the batches as those of the epoch
        # that begins, and would end it early where it has more.
        if self.trainer is not None and self.trainer.fit_loop.epoch_loop.batch_progress.current.ready:
            self._refuse_another_order(resume_at)
        return 0

    def _refuse_another_order(self, state: dict[str, Any]) -> None:
        before, now = {"data.sampling": "shuffled", **state["order"]}, self._order  # older checkpoints know no other
        changed = [f"{name}: {now[name]} instead of {before[name]}" for name in now if now[name] != before[name]]
        if changed:
            raise UserError(
                f"{', '.join(changed)}: the checkpoint was written after batch {state['batches']} of {state['of']} of "
                "an epoch, whose order would change: restore it, or resume from the end of an epoch"
            )

    @property
    def _order(self) -> dict[str, int | str]:
        """What the order of an epoch follows from; each step is distributed over the devices, however many."""
        return {
            "data.batch_size times devices": self._shape[1] * self._world_size,
            "training images": len(self.dataset),
            "seed": self.dataset.seed,
            "data.sampling": "shuffled" if self._balance is None else "balanced",
        }


class EvaluationLoader(_Loader):
    """Each sample of a split once, in its own order, distributed over the ranks.

    Args:
        dataset: The split.
        allow_empty: Whether a rank may be left without samples, where there are fewer than ranks.
        **options: As for every loader.
    """

    def __init__(self, dataset: BatchDataset, *, allow_empty: bool = False, **options: Any) -> None:
        super().__init__(dataset, **options)
        self._allow_empty = allow_empty

    def __len__(self) -> int:
        """Batches of the first rank, which has the most; the others may have one less.

        Lightning calls no hook of a pass on a rank whose loader has no length, not even with its option
        `allow_zero_length_dataloader_with_multiple_devices` (`EvaluationLoop.skip`), while the others wait for it.
        """
        if not (self._allow_empty or len(self._indices)):
            return 0
        return -(-len(self.dataset) // (self.batch_size * self._world_size))

    def __iter__(self) -> Iterator[Batch]:
        epoch = self.trainer.current_epoch if self.trainer is not None and is_running(self.trainer) else 0
        yield from self._batches(epoch)

    def indices(self, epoch: int) -> list[sampling.Indices]:  # noqa: D102  (the base's)
        indices, size = self._indices, self.batch_size
        return [indices[start : start + size] for start in range(0, len(indices), size)]

    @property
    def _indices(self) -> sampling.Indices:
        return sampling.evaluation_indices(size=len(self.dataset), rank=self._rank, world_size=self._world_size)


def is_running(trainer: Trainer | None) -> bool:
    """Whether the trainer is running; the epoch of a finished one does not change any more."""
    return trainer is not None and trainer.state.status == TrainerStatus.RUNNING
