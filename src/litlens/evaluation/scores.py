"""Scores of one set of predictions, with their confidence intervals: accuracy, loss, precision, recall, F1, mistakes.

Random numbers come from seeded generators; the global states of NumPy and torch are not touched.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from litlens.evaluation.predictions import Predictions

_CHUNK = 2**20  # numbers drawn at a time: fits into the cache, hides Python's overhead

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


def sample_losses(predictions: Predictions) -> NDArray[np.float64]:
    """The cross-entropy of every sample `(N,)` in nats, in float64."""
    return np.asarray(-predictions.log_probabilities[np.arange(len(predictions)), predictions.labels])


def loss(predictions: Predictions) -> float:
    """The mean cross-entropy in nats, without label smoothing, weights or penalties."""
    return float(sample_losses(predictions).mean())


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
    losses = np.nan_to_num(sample_losses(predictions), nan=np.inf, posinf=np.inf)
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
    from sklearn.metrics import precision_recall_curve

    curves = []
    for label, name in enumerate(predictions.class_names):
        positive = predictions.labels == label
        if not positive.any():
            continue
        # The log orders what has underflowed to the same probability.
        scores = predictions.log_probabilities[:, label]
        precision, recall, _ = precision_recall_curve(positive, scores, drop_intermediate=True)
        area = float(-np.sum(np.diff(recall) * precision[:-1]))
        curves.append(PrecisionRecall(name, precision, recall, area))
    return curves


def bootstrap_intervals(
    predictions: Predictions, *, resamples: int = 10_000, seed: int = 0, level: float = 0.95
) -> dict[str, Interval]:
    """Percentile intervals of macro precision, recall and F1, and of the loss (NaN if that is not finite).

    For accuracy use `accuracy`. Samples are drawn independently: for images in groups the intervals are too narrow.
    """
    macro_generator, loss_generator = np.random.default_rng(seed).spawn(2)
    resampled = _resampled_macro(predictions, resamples=resamples, generator=macro_generator)
    intervals = {
        name: percentile_interval(value, resampled[name], level=level) for name, value in macro(predictions).items()
    }
    mean_loss, losses = loss(predictions), sample_losses(predictions)
    intervals["loss"] = Interval(mean_loss, np.nan, np.nan)
    if np.isfinite(mean_loss):
        means = resampled_means(losses, resamples=resamples, generator=loss_generator)
        intervals["loss"] = percentile_interval(mean_loss, means, level=level)
    return intervals


def _resampled_macro(
    predictions: Predictions, *, resamples: int, generator: np.random.Generator
) -> dict[str, NDArray[np.float64]]:
    cells, counts = np.unique(np.stack([predictions.labels, predictions.predicted]), axis=1, return_counts=True)
    classes = np.arange(predictions.num_classes)
    labeled, predicted = (np.float32(side[:, None] == classes) for side in cells)  # (C, K) each: cell -> class
    right = labeled * predicted
    chunks = [
        macro_metrics(drawn @ right, drawn @ labeled, drawn @ predicted)
        for drawn in resampled_counts(counts, resamples=resamples, generator=generator)
    ]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def wilson_interval(hits: int, trials: int, *, level: float = 0.95) -> Interval:
    """The proportion `hits / trials` with Wilson's score interval, which keeps its level at small N and near 1."""
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
    from scipy.stats import norm

    z = float(norm.ppf((1 + level) / 2))
    p = (hits + z * z / 2) / (trials + z * z)
    return float(z * np.sqrt(2 * p * (1 - p) / trials))
