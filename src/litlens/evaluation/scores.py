"""Scores of one set of predictions, with their confidence intervals: accuracy, loss, precision, recall, F1, mistakes.

Random numbers come from seeded generators; the global states of NumPy and torch are not touched.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from litlens.evaluation.predictions import Predictions

_CHUNK = 2**20  # numbers drawn at a time: fits into the cache, hides Python's overhead
_DRAWS = 250_000_000  # samples drawn in all resamples
_CLASSES = 16  # whose scores are in memory at a time: those of a cache line of logits

Counts = NDArray[np.integer] | NDArray[np.floating]


@dataclass(frozen=True)
class Interval:
    """A value with the confidence interval around it."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassMetrics:
    """One class's row of the per-class table: metrics in [0, 1], 0 if undefined, and two counts."""

    name: str
    precision: float
    recall: float
    f1: float
    labeled: int
    predicted: int


@dataclass(frozen=True)
class ConfusedPair:
    """How often one class was predicted as another; `fraction` is that of the label's samples."""

    label: int
    predicted: int
    count: int
    fraction: float


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """One class against all others: precision and recall (T,) at T thresholds, recall falling from 1 to 0.

    `average_precision` is the area under the steps, as scikit-learn defines it.
    """

    name: str
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    average_precision: float


def accuracy(predictions: Predictions, *, level: float = 0.95) -> Interval:
    """The accuracy with its Wilson interval."""
    return wilson_interval(int(predictions.correct.sum()), len(predictions), level=level)


def loss(predictions: Predictions) -> float:
    """The mean cross-entropy in nats, without label smoothing, weights or penalties."""
    return float(predictions.losses.mean())


def class_table(predictions: Predictions) -> list[ClassMetrics]:
    """Precision, recall and F1 of every class, in the order of the class names."""
    right, labeled, predicted = _counts(predictions)
    precision, recall, f1 = class_metrics(right, labeled, predicted).values()
    return [
        ClassMetrics(name, float(precision[k]), float(recall[k]), float(f1[k]), int(labeled[k]), int(predicted[k]))
        for k, name in enumerate(predictions.class_names)
    ]


def class_metrics(right: Counts, labeled: Counts, predicted: Counts) -> dict[str, NDArray[np.float64]]:
    """Precision, recall and F1 of every class from its counts `(..., K)`; an undefined one is 0."""

    def ratio(numerator: Counts, denominator: Counts) -> NDArray[np.float64]:
        return np.divide(numerator, denominator, out=np.zeros(numerator.shape), where=denominator > 0)

    return {
        "precision": ratio(right, predicted),
        "recall": ratio(right, labeled),
        "f1": ratio(2 * right, labeled + predicted),
    }


def macro_metrics(right: Counts, labeled: Counts, predicted: Counts) -> dict[str, NDArray[np.float64]]:
    """Macro precision, recall and F1 `(...)` from counts per class `(..., K)`; leading dimensions are resamples.

    As torchmetrics averages: a class that is neither labeled nor predicted anywhere is left out.
    """
    present = np.maximum(((labeled + predicted) > 0).sum(axis=-1), 1)
    of_classes = class_metrics(right, labeled, predicted)
    return {name: np.asarray(values.sum(axis=-1) / present) for name, values in of_classes.items()}


def macro(predictions: Predictions) -> dict[str, float]:
    """Macro precision, recall and F1, equal to torchmetrics' `average="macro"`."""
    return {name: float(value) for name, value in macro_metrics(*_counts(predictions)).items()}


def _counts(predictions: Predictions) -> tuple[Counts, Counts, Counts]:
    matrix = predictions.confusion_matrix
    return np.diagonal(matrix), matrix.sum(axis=1), matrix.sum(axis=0)


def most_confused(predictions: Predictions, *, limit: int = 10) -> list[ConfusedPair]:
    """The pairs (label, predicted) that are confused most often, worst first, ties by class number."""
    counts = predictions.confusion_matrix * ~np.eye(predictions.num_classes, dtype=bool)
    labeled = predictions.confusion_matrix.sum(axis=1)
    order = np.argsort(-counts, axis=None, kind="stable")[:limit]
    rows, columns = np.unravel_index(order, counts.shape)
    return [
        ConfusedPair(int(row), int(column), int(counts[row, column]), float(counts[row, column] / labeled[row]))
        for row, column in zip(rows, columns, strict=True)
        if counts[row, column]
    ]


def highest_losses(predictions: Predictions) -> NDArray[np.int64]:
    """Indices of the samples, highest loss first, ties in order; a NaN loss counts as infinite."""
    losses = np.nan_to_num(predictions.losses, nan=np.inf, posinf=np.inf)
    return np.argsort(-losses, kind="stable").astype(np.int64)


def worst_mistakes(predictions: Predictions) -> list[int]:
    """Indices of the misclassified samples, highest loss first."""
    order = highest_losses(predictions)
    return [int(index) for index in order[~predictions.correct[order]]]


def label_errors(predictions: Predictions) -> NDArray[np.int64]:
    """Indices of the samples whose label is probably wrong, the least probable label first: confident learning.

    The threshold of a class is the mean probability that the samples labeled so have of it. A sample is confidently of
    the most probable class whose threshold it reaches; its label is an error if that is another class and is predicted.
    The predictions must come from networks that were not trained on the sample, as in a cross-validation. Samples with
    NaN or infinite logits are left out.

    C. Northcutt, L. Jiang and I. Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", 2021.
    """
    rows, labels = np.arange(len(predictions)), predictions.labels
    own = predictions.probabilities[rows, labels]
    members = [(labels == k) & predictions.finite for k in range(predictions.num_classes)]
    thresholds = np.array([own[member].mean() if member.any() else np.inf for member in members])
    confident = predictions.probabilities >= thresholds - 1e-6
    guess = np.where(confident.sum(axis=1) > 1, predictions.predicted, confident.argmax(axis=1))
    errors = rows[predictions.finite & confident.any(axis=1) & (guess != labels) & ~predictions.correct]
    return np.asarray(errors[np.argsort(own[errors], kind="stable")], dtype=np.int64)


def precision_recall_curves(predictions: Predictions) -> list[PrecisionRecall]:
    """The curve of every class, in the order of the class names; a class without a sample has none.

    All logits must be finite: see `Predictions.only_finite`.
    """
    curves = []
    for first in range(0, predictions.num_classes, _CLASSES):
        # The log orders what has underflowed to the same probability.
        scores = np.ascontiguousarray(predictions.log_probabilities_of(slice(first, first + _CLASSES)).T)
        for label, own in enumerate(scores, start=first):
            positive = own[predictions.labels == label]
            if len(positive):
                precision, recall = _precision_and_recall(positive, np.sort(own))
                area = float(-np.sum(np.diff(recall) * precision[:-1]))
                curves.append(PrecisionRecall(predictions.class_names[label], precision, recall, area))
    return curves


def _precision_and_recall(
    positive: NDArray[np.float64], scores: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision and recall at every threshold at which either changes its direction, recall falling from 1 to 0.

    As scikit-learn's `precision_recall_curve(drop_intermediate=True)`, to the last bit. `positive` are the scores of
    the class's own samples, `scores` those of all, in ascending order. Between two positive scores, precision only
    falls, so that the first and the last threshold with the same recall are enough.
    """
    thresholds, counts = np.unique(positive, return_counts=True)
    thresholds, found = thresholds[::-1], np.cumsum(counts[::-1])
    reached = len(scores) - np.searchsorted(scores, thresholds, side="left")
    before = len(scores) - np.searchsorted(scores, thresholds, side="right")
    at_top = len(scores) - int(np.searchsorted(scores, scores[-1], side="left"))
    hits = np.column_stack([np.append(0, found[:-1]), found]).ravel()
    taken = np.column_stack([before, reached]).ravel()
    hits, taken = np.r_[0, hits, found[-1]], np.r_[min(at_top, before[0]), taken, len(scores)]
    changed = np.diff(taken, prepend=0) > 0
    precision, recall = hits[changed] / taken[changed], hits[changed] / found[-1]
    return np.append(precision[::-1], 1.0), np.append(recall[::-1], 0.0)


def threshold_counts(predictions: Predictions, classes: range, *, thresholds: int = 127) -> NDArray[np.float64]:
    """True and false positives, true and false negatives, precision and recall `(6, T)`: TensorBoard's curve.

    A sample is found where its probability is at least the threshold, T of them from 0 to 1. Several classes are
    pooled. All logits must be finite.
    """
    found = np.zeros((2, thresholds))  # by the highest threshold reached: the classes' own samples, and all
    for first in classes[::_CLASSES]:
        scores = np.exp(predictions.log_probabilities_of(slice(first, min(first + _CLASSES, classes.stop))))
        reached = np.floor(scores * (thresholds - 1)).astype(np.int64)
        own = (predictions.labels >= first) & (predictions.labels < first + reached.shape[1])
        places = reached[own, predictions.labels[own] - first], reached.ravel()
        found += [np.bincount(place, minlength=thresholds) for place in places]
    right, taken = np.cumsum(found[:, ::-1], axis=1)[:, ::-1]
    wrong, missed = taken - right, right[0] - right
    precision, recall = right / np.maximum(taken, 1e-7), right / np.maximum(right[0], 1e-7)
    return np.stack([right, wrong, wrong[0] - wrong, missed, precision, recall])


def number_of_resamples(samples: int) -> int:
    """The number of bootstrap resamples of an interval: 10,000, above 25,000 samples fewer, in about the same time."""
    return min(10_000, _DRAWS // samples)


def bootstrap_intervals(
    predictions: Predictions, *, resamples: int | None = None, seed: int = 0, level: float = 0.95
) -> dict[str, Interval]:
    """Percentile intervals of macro precision, recall and F1, and of the loss (NaN if that is not finite).

    For accuracy use `accuracy`. Samples are drawn independently: for images in groups the intervals are too narrow.
    By default from `number_of_resamples(N)` resamples.
    """
    resamples = resamples or number_of_resamples(len(predictions))
    macro_generator, loss_generator = np.random.default_rng(seed).spawn(2)
    resampled = _resampled_macro(predictions, resamples=resamples, generator=macro_generator)
    intervals = {
        name: percentile_interval(value, resampled[name], level=level) for name, value in macro(predictions).items()
    }
    mean_loss = loss(predictions)
    intervals["loss"] = Interval(mean_loss, np.nan, np.nan)
    if np.isfinite(mean_loss):
        means = resampled_means(predictions.losses, resamples=resamples, generator=loss_generator)
        intervals["loss"] = percentile_interval(mean_loss, means, level=level)
    return intervals


def _resampled_macro(
    predictions: Predictions, *, resamples: int, generator: np.random.Generator
) -> dict[str, NDArray[np.float64]]:
    cells, counts = np.unique(np.stack([predictions.labels, predictions.predicted]), axis=1, return_counts=True)
    labels, predicted = cells
    chunks = [
        macro_metrics(
            *(
                sums_by_class(drawn, classes, predictions.num_classes)
                for classes in (np.where(labels == predicted, labels, -1), labels, predicted)
            )
        )
        for drawn in resampled_counts(counts, resamples=resamples, generator=generator)
    ]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def sums_by_class(drawn: NDArray[np.float32], classes: NDArray[np.int64], num_classes: int) -> NDArray[np.float32]:
    """Sums `(r, K)` of the columns of `drawn` `(r, C)` by their classes `(C,)`, where -1 is none."""
    order = np.argsort(classes, kind="stable")[np.count_nonzero(classes < 0) :]
    present, starts = np.unique(classes[order], return_index=True)
    sums = np.zeros((len(drawn), num_classes), dtype=np.float32)
    if len(present):
        sums[:, present] = np.add.reduceat(drawn[:, order], starts, axis=1)
    return sums


def wilson_interval(hits: int, trials: int, *, level: float = 0.95) -> Interval:
    """The proportion `hits / trials` with Wilson's score interval, which keeps its level at small N and near 1."""
    z, p = _normal_quantile(level), hits / trials
    center, scale = 2 * trials * p + z**2, 2 * (trials + z**2)
    half = z / scale * math.sqrt(4 * trials * p * (1 - p) + z**2)
    return Interval(p, center / scale - half if hits else 0.0, center / scale + half if hits < trials else 1.0)


def _normal_quantile(level: float) -> float:
    from scipy.special import ndtri

    return float(ndtri((1 + level) / 2))


def percentile_interval(value: float, resampled: NDArray[np.float64], *, level: float = 0.95) -> Interval:
    """`value` with the percentiles of its resampled values `(R,)` that enclose `level` of them."""
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def resampled_counts(
    counts: NDArray[np.int64], *, resamples: int, generator: np.random.Generator
) -> Iterator[NDArray[np.float32]]:
    """Bootstrap resamples of N samples that fall into C cells with the given counts `(C,)`: chunks `(r, C)`.

    Drawing N samples with replacement and counting them per cell is one multinomial draw over the cells.
    """
    total = int(counts.sum())
    rows = max(1, _CHUNK // total)
    for start in range(0, resamples, rows):
        drawn = generator.multinomial(total, counts / total, size=min(rows, resamples - start))
        yield drawn.astype(np.float32)  # exact up to 2**24 samples


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
    """The smallest difference in accuracy between two classifiers that is significant at `1 - level`.

    For `trials` samples and independent mistakes, the worst case in practice: if both were tested on the same samples,
    `run_comparison.compare` finds smaller differences significant. The proportion is shrunk towards one half as in
    Agresti and Coull's interval, so that the difference is above zero for a perfect score, too.
    """
    z = _normal_quantile(level)
    p = (hits + z * z / 2) / (trials + z * z)
    return float(z * np.sqrt(2 * p * (1 - p) / trials))
