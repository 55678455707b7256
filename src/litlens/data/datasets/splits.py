"""Split a data set into parts that are alike: by class, seeded, and by group where there are groups."""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Indices = NDArray[np.int64]

# What this module's random generator is for, so that no other draws the same numbers from the same seed.
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
    share rounded down or up. A class's only sample goes to the largest part. K equal fractions give K folds.

    Args:
        labels: The class of each sample, integers (N,).
        fractions: The parts' sizes in proportion to each other; they need not add up to 1.
        groups: What must not be divided between parts (a patient, a font family), one of each sample. The sizes
            are as near as complete groups allow.
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
    """Samples of each class in each part: (classes, parts), by largest remainder in each and in all."""
    exact = counts[:, None] * shares
    sizes = np.stack([_largest_remainder(row, int(count)) for row, count in zip(exact, counts, strict=True)])
    wanted = _largest_remainder(counts.sum() * shares, int(counts.sum()))
    # Rounded class by class, the totals may be off by a few. Move one sample at a time, where it costs least,
    # and never further than to the other neighbor of a class's exact share, nor a class's last one out of
    # the first part, training.
    while True:
        surplus = sizes.sum(axis=0) - wanted
        moves = [
            (exact[label, to] - sizes[label, to] + sizes[label, of] - exact[label, of], -label, of, to)
            for of in np.flatnonzero(surplus > 0)
            for to in np.flatnonzero(surplus < 0)
            for label in range(len(counts))
            if sizes[label, of] > exact[label, of] and sizes[label, to] < exact[label, to]
            if not (of == 0 and sizes[label, of] <= 1)
        ]
        if not moves:
            return sizes
        _, label, of, to = max(moves)
        sizes[-label, of] -= 1
        sizes[-label, to] += 1


def _largest_remainder(exact: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Whole numbers that add up to `total`, each next to its exact value; the first wins a tie."""
    # Rounded, so that 0.1 × 30 = 3.0000000000000004 leaves no remainder and a tie is a tie.
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
    """Place whole groups, large ones first, each where parts come nearest to their exact sizes by class."""
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
