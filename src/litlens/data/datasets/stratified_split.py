"""Split a data set into parts, stratified by class and seeded; groups are never divided."""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from litlens.data.sampling import Indices

# Keeps this module's random numbers apart from others drawn from the same seed.
_SPLITTING = 3


def stratified_split(
    labels: ArrayLike,
    fractions: Sequence[float],
    *,
    seed: int,
    groups: Sequence[Hashable] | None = None,
) -> list[Indices]:
    """Split samples into parts, each class in the same proportions; sorted int64 indices of each part.

    The parts are disjoint and cover everything. Sizes are exact: in each class and in total, the fraction's
    share rounded down or up. Of the first part, which is meant for training, every class has a sample if that part is
    the largest; no other part is empty where a class can spare a sample. K equal fractions give K folds.

    Args:
        labels: The class of each sample, integers (N,).
        fractions: The parts' sizes in proportion to each other; they need not add up to 1.
        groups: The group of each sample (a patient, a font family); no group is divided. The sizes are as near as
            complete groups allow.
    """
    classes = np.unique(np.asarray(labels), return_inverse=True)[1].reshape(-1)
    shares = np.asarray(fractions, dtype=np.float64)
    if len(shares) == 0 or not (shares > 0).all():
        raise ValueError(f"fractions must be positive, not {list(fractions)}")
    shares = shares / shares.sum()
    rng = np.random.default_rng([seed, _SPLITTING])
    part = _parts_of_samples(classes, shares, rng) if groups is None else _parts_of_groups(classes, shares, groups, rng)
    return [np.flatnonzero(part == number).astype(np.int64, copy=False) for number in range(len(shares))]


def _parts_of_samples(
    classes: NDArray[np.intp], shares: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.intp]:
    part = np.zeros(len(classes), dtype=np.intp)
    sizes = _sizes(np.bincount(classes), shares)
    for label, row in enumerate(sizes):
        members = rng.permutation(np.flatnonzero(classes == label))
        part[members] = np.repeat(np.arange(len(shares)), row)
    return part


def _sizes(counts: NDArray[np.intp], shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """Number of samples of each class in each part: (classes, parts), by largest remainder per class and in total."""
    exact = counts[:, None] * shares
    sizes = np.stack([_largest_remainder(row, int(count)) for row, count in zip(exact, counts, strict=True)])
    wanted = _largest_remainder(counts.sum() * shares, int(counts.sum()))
    # Rounding class by class may leave the totals off by a few.
    while True:
        surplus = sizes.sum(axis=0) - wanted
        if not _move_one(sizes, exact, of=surplus > 0, to=surplus < 0):
            break
    for part in np.flatnonzero(sizes.sum(axis=0) == 0):
        _move_one(sizes, exact, of=sizes.sum(axis=0) > 1, to=np.arange(len(shares)) == part)
    return sizes


def _move_one(
    sizes: NDArray[np.int64], exact: NDArray[np.float64], *, of: NDArray[np.bool_], to: NDArray[np.bool_]
) -> bool:
    """Move one sample between two of the given parts where it costs least; False where none can be moved.

    A move keeps the sizes of a class its exact shares rounded up or down, and a class's last sample in the first part.
    """
    moves = [
        (exact[label, new] - sizes[label, new] + sizes[label, old] - exact[label, old], -label, old, new)
        for old in np.flatnonzero(of)
        for new in np.flatnonzero(to)
        for label in range(len(sizes))
        if sizes[label, old] > exact[label, old] and sizes[label, new] < exact[label, new]
        if not (old == 0 and sizes[label, old] <= 1)
    ]
    if moves:
        _, label, old, new = max(moves)
        sizes[-label, old] -= 1
        sizes[-label, new] += 1
    return bool(moves)


def _largest_remainder(exact: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Round to integers that add up to `total`, each up or down; the first wins a tie."""
    # Rounded, because 0.1 × 30 = 3.0000000000000004 must leave no remainder, and ties must be ties.
    exact = exact.round(9)
    sizes = np.floor(exact).astype(np.int64)
    largest_first = np.argsort(-(exact - sizes).round(9), kind="stable")
    sizes[largest_first[: total - sizes.sum()]] += 1
    return sizes


def _parts_of_groups(
    classes: NDArray[np.intp],
    shares: NDArray[np.float64],
    groups: Sequence[Hashable],
    rng: np.random.Generator,
) -> NDArray[np.intp]:
    """Place complete groups, large ones first, each where the sizes by class come nearest to the exact ones."""
    numbers: dict[Hashable, int] = {}
    member_of = np.array([numbers.setdefault(group, len(numbers)) for group in groups], dtype=np.intp)
    counts = np.zeros((len(numbers), int(classes.max(initial=-1)) + 1))
    np.add.at(counts, (member_of, classes), 1)
    wanted = shares[:, None] * counts.sum(axis=0)
    missing = wanted.copy()
    part_of_group = np.zeros(len(numbers), dtype=np.intp)
    # Shuffled, then sorted stably: the seed decides between groups of one size.
    order = rng.permutation(len(numbers))
    for group in order[np.argsort(-counts[order].sum(axis=1), kind="stable")]:
        held = counts[group] > 0
        # By how much the sum of (missing / wanted)² weighted by size would grow.
        growth = ((counts[group] ** 2 - 2 * counts[group] * missing)[:, held] / wanted[:, held]).sum(axis=1)
        part = int(np.argmin(growth.round(9)))
        part_of_group[group] = part
        missing[part] -= counts[group]
    return part_of_group[member_of]
