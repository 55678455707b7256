"""Counts and averages over one set of predictions: accuracy, loss, confusion, classes, worst mistakes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from litlens.evaluation.intervals import Interval, wilson_interval
from litlens.evaluation.predictions import Predictions


@dataclass(frozen=True)
class ClassFigures:
    """One class's row of the per-class table: figures in [0, 1], 0 where undefined, and two counts."""

    name: str
    precision: float
    recall: float
    f1: float
    labelled: int
    predicted: int


@dataclass(frozen=True)
class ConfusedPair:
    """How often one class was taken for another; `share` is of the label's samples."""

    label: int
    predicted: int
    count: int
    share: float


def accuracy(predictions: Predictions, *, level: float = 0.95) -> Interval:
    """The share of right predictions with its Wilson interval."""
    return wilson_interval(int(predictions.correct.sum()), len(predictions), level=level)


def sample_losses(predictions: Predictions) -> NDArray[np.float64]:
    """The cross-entropy of every sample `(N,)` in nats, in float64."""
    return np.asarray(-predictions.log_probabilities[np.arange(len(predictions)), predictions.labels])


def loss(predictions: Predictions) -> float:
    """The mean cross-entropy in nats, without label smoothing, weights or penalties."""
    return float(sample_losses(predictions).mean())


def confusion_matrix(predictions: Predictions) -> NDArray[np.int64]:
    """Counts `(K, K)`: row = label, column = predicted, as in torchmetrics and scikit-learn."""
    classes = predictions.num_classes
    cells = predictions.labels * classes + predictions.predicted
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


def row_shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """A confusion matrix `(K, K)` normalized: of each label's samples, the share that got each class."""
    return np.asarray(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))


def class_table(predictions: Predictions) -> list[ClassFigures]:
    """Precision, recall and F1 of every class, in the order of the class names."""
    return class_table_of(confusion_matrix(predictions), predictions.class_names)


def class_table_of(counts: NDArray[np.integer], class_names: Sequence[str]) -> list[ClassFigures]:
    """The same table from a confusion matrix `(K, K)`."""
    right = np.diagonal(counts)
    labelled, predicted = counts.sum(axis=1), counts.sum(axis=0)
    precision, recall = right / np.maximum(predicted, 1), right / np.maximum(labelled, 1)
    f1 = 2 * right / np.maximum(labelled + predicted, 1)
    return [
        ClassFigures(name, float(precision[k]), float(recall[k]), float(f1[k]), int(labelled[k]), int(predicted[k]))
        for k, name in enumerate(class_names)
    ]


def macro_figures(
    right: NDArray[np.floating], labelled: NDArray[np.floating], predicted: NDArray[np.floating]
) -> dict[str, NDArray[np.float64]]:
    """Macro precision, recall and F1 `(...)` from counts per class `(..., K)`.

    As torchmetrics averages: a class that is neither labelled nor predicted anywhere is left out, any other
    undefined value counts 0. Leading dimensions are resamples.
    """
    present = (labelled + predicted) > 0
    number = np.maximum(present.sum(axis=-1), 1)

    def mean(numerator: NDArray[np.floating], denominator: NDArray[np.floating]) -> NDArray[np.float64]:
        ratio = np.divide(numerator, denominator, out=np.zeros(numerator.shape), where=denominator > 0)
        return np.asarray(ratio.sum(axis=-1) / number)

    return {
        "precision": mean(right, predicted),
        "recall": mean(right, labelled),
        "f1": mean(2 * right, labelled + predicted),
    }


def macro(predictions: Predictions) -> dict[str, float]:
    """Macro precision, recall and F1, equal to torchmetrics' `average="macro"`."""
    counts = confusion_matrix(predictions).astype(np.float64)
    figures = macro_figures(np.diagonal(counts).copy(), counts.sum(axis=1), counts.sum(axis=0))
    return {name: float(value) for name, value in figures.items()}


def most_confused(predictions: Predictions, *, limit: int = 10) -> list[ConfusedPair]:
    """The pairs (label, predicted) that were confused most often, worst first, ties by class number."""
    counts = confusion_matrix(predictions)
    labelled = counts.sum(axis=1)
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:limit]
    rows, columns = np.unravel_index(order, counts.shape)
    return [
        ConfusedPair(int(row), int(column), int(counts[row, column]), float(counts[row, column] / labelled[row]))
        for row, column in zip(rows, columns, strict=True)
        if counts[row, column]
    ]


def highest_losses(predictions: Predictions, *, limit: int | None = None) -> NDArray[np.int64]:
    """Which samples have the highest loss, worst first, ties in the order of the samples."""
    return np.argsort(-sample_losses(predictions), kind="stable")[:limit].astype(np.int64)


def self_confidence(predictions: Predictions) -> NDArray[np.float64]:
    """The probability `(N,)` that each sample's own label got: cleanlab's `self_confidence` score.

    Low where the label is suspect, provided the network was not trained on these samples.
    """
    return np.asarray(predictions.probabilities[np.arange(len(predictions)), predictions.labels])


def suspected_label_errors(predictions: Predictions, *, limit: int | None = None) -> NDArray[np.int64]:
    """Which wrongly predicted samples may be wrongly labelled, most suspect first (see `self_confidence`)."""
    # The log orders samples whose probabilities have underflowed to the same 0; it is the highest loss again.
    order = highest_losses(predictions)
    return order[~predictions.correct[order]][:limit]
