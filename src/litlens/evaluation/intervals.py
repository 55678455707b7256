"""How sure a figure is: Wilson's interval for shares, the bootstrap for the rest, and what is only noise.

All random numbers come from generators made here from a seed; the global states of NumPy and torch stay
preserve_state.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_CHUNK = 2**20  # numbers drawn at a time: small enough for the cache, large enough to hide Python's overhead
_SPARSE = 6  # samples a cell must hold for a binomial draw to be cheaper than choosing each: 50 ns against 10


@dataclass(frozen=True)
class Interval:
    """A value with the confidence interval around it."""

    value: float
    low: float
    high: float


def wilson_interval(hits: int, trials: int, *, level: float = 0.95) -> Interval:
    """The share `hits / trials` with Wilson's score interval, which holds its level at small N and near 1."""
    from scipy.stats import binomtest

    bounds = binomtest(hits, trials).proportion_ci(confidence_level=level, method="wilson")
    return Interval(hits / trials, float(bounds.low), float(bounds.high))


def percentile_interval(value: float, resampled: NDArray[np.float64], *, level: float = 0.95) -> Interval:
    """`value` with the percentiles of its resampled values `(R,)` that enclose `level` of them."""
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def resampled_counts(
    counts: NDArray[np.int64], *, resamples: int, generator: np.random.Generator
) -> Iterator[NDArray[np.float32]]:
    """Bootstrap resamples of N samples that fall into C cells with the given counts `(C,)`: chunks `(r, C)`.

    Drawing N samples with replacement and counting them per cell is one multinomial draw over the cells,
    which costs a binomial draw per cell instead of a choice per sample. In sparse cells choosing samples is
    the cheaper of the two, so those share one cell of the multinomial and are told apart afterwards.
    """
    total = int(counts.sum())
    dense, sparse = np.flatnonzero(counts >= _SPARSE), np.flatnonzero(counts < _SPARSE)
    cell_of = np.repeat(np.arange(len(sparse)), counts[sparse])  # of every sample that lies in a sparse cell
    shares = np.append(counts[dense], len(cell_of)) / total
    rows = max(1, _CHUNK // total)
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        coarse = generator.multinomial(total, shares, size=size)
        drawn = np.empty((size, len(counts)), dtype=np.float32)  # exact up to 2**24 samples
        drawn[:, dense] = coarse[:, :-1]
        if len(sparse):
            chosen = cell_of[generator.integers(len(cell_of), size=int(coarse[:, -1].sum()))]
            chosen += np.repeat(np.arange(size) * len(sparse), coarse[:, -1])
            drawn[:, sparse] = np.bincount(chosen, minlength=size * len(sparse)).reshape(size, len(sparse))
        yield drawn


def resampled_means(
    values: NDArray[np.float64], *, resamples: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """The means `(R,)` of bootstrap resamples of `values` `(N,)`."""
    number = len(values)
    narrow = np.uint16 if number <= 2**16 else np.uint32
    rows = max(1, _CHUNK // number)
    means = np.empty(resamples)
    for start in range(0, resamples, rows):
        stop = min(start + rows, resamples)
        drawn = generator.integers(number, size=(stop - start, number), dtype=narrow)
        means[start:stop] = values.take(drawn).mean(axis=1)
    return means


def noise_difference(hits: int, trials: int, *, level: float = 0.95) -> float:
    """How far apart two equally good classifiers come out on `trials` samples by chance alone.

    A difference in accuracy below this says nothing; one above it is significant at `1 - level`. It assumes
    that the two err independently, which is the worst case in practice: where both saw the same samples,
    `comparison.compare` finds smaller differences. The share is pulled towards one half as in Agresti and
    Coull's interval, so that a perfect score does not promise a noise of zero.
    """
    from scipy.stats import norm

    z = float(norm.ppf((1 + level) / 2))
    share = (hits + z * z / 2) / (trials + z * z)
    return float(z * np.sqrt(2 * share * (1 - share) / trials))
