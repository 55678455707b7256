"""The order of samples, as a function and not a state: everything follows from (seed, epoch, index).

The number of workers and a resume therefore change nothing.
"""

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

# Each purpose has a random generator of its own, so that switching one off changes no other.
_SHUFFLING, _AUGMENTATION, _ALTERNATION, _BALANCING = 0, 1, 2, 3


def training_indices(
    *,
    seed: int,
    epoch: int,
    size: int,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    balance: Indices | None = None,
) -> Indices:
    """The samples that a rank trains on in an epoch, in order, as batches: (batches, images in a batch).

    Rank r takes positions r, r + W, r + 2W, … of one order that all ranks share. Of a permutation, the tail is left out
    so that every rank has the same number of full batches; the permutation of the next epoch leaves out others.
    With `balance`, the labels of the split, the order has each class equally often.
    """
    batches, in_batch = training_shape(size=size, batch_size=batch_size, world_size=world_size)
    number = batches * in_batch * world_size
    if balance is not None:
        order = _balanced(balance, number=number, rng=_rng(seed, _BALANCING, epoch))
    else:
        order = _rng(seed, _SHUFFLING, epoch).permutation(size)[:number].astype(np.int64, copy=False)
    return order[rank::world_size].reshape(batches, in_batch)


def training_shape(*, size: int, batch_size: int, world_size: int = 1) -> tuple[int, int]:
    """Number of full batches of every rank in an epoch, and of images in each.

    A batch has `batch_size` images, or the rank's share of the split if that is smaller. (0, 0) where there are fewer
    images than ranks.
    """
    in_batch = min(batch_size, size // world_size)
    return size // (in_batch * world_size) if in_batch else 0, in_batch


def evaluation_indices(*, size: int, rank: int = 0, world_size: int = 1) -> Indices:
    """The samples that a rank evaluates: r, r + W, r + 2W, …, each sample once over all ranks, none repeated.

    `torch.utils.data.DistributedSampler` pads to equal lengths instead and so counts some samples twice.
    """
    return np.arange(rank, size, world_size, dtype=np.int64)


def augmentation_rng(*, seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random generator that augments sample `index` (its place in the training split) in an epoch."""
    return _rng(seed, _AUGMENTATION, epoch, index)


def flips_first(*, seed: int, index: int) -> bool:
    """Whether a sample that is flipped in every second epoch is flipped in epoch 0."""
    return bool(_rng(seed, _ALTERNATION, 0, index).integers(2))


def _balanced(labels: Indices, *, number: int, rng: np.random.Generator) -> Indices:
    """`number` samples in random order: each class, and within it each sample, equally often, or once more than others.

    A class that has more samples than places has random ones; that of the next epoch are others.
    """
    classes = rng.permutation(np.unique(labels))
    places = np.full(len(classes), number // max(1, len(classes)))
    places[: number - places.sum()] += 1
    chosen = [
        np.resize(rng.permutation(np.flatnonzero(labels == label)), count)
        for label, count in zip(classes, places, strict=True)
    ]
    return rng.permutation(np.concatenate(chosen)) if chosen else np.zeros(0, np.int64)


def _rng(seed: int, purpose: int, epoch: int, index: int = 0) -> np.random.Generator:
    # Philox is counter-based: distinct counters under one key are independent rngs (Salmon et al., "Parallel random
    # numbers: as easy as 1, 2, 3", SC 2011), at a tenth of the price of seeding a Mersenne twister. The counter's
    # lowest word is the position within an rng.
    return np.random.Generator(np.random.Philox(key=[seed, purpose], counter=[0, 0, epoch, index]))
