"""Calibration: whether predictions of 90 % confidence are correct nine times in ten, and temperature scaling."""

import math
from dataclasses import dataclass

import numpy as np

from litlens.evaluation.predictions import Predictions

_COLDEST, _HOTTEST = 0.05, 20.0


@dataclass(frozen=True)
class ReliabilityBin:
    """The samples whose confidence lies in [low, high): how many, their mean confidence, their accuracy.

    `confidence` and `accuracy` are NaN in an empty bin. The last bin holds a confidence of 1 too.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def reliability(predictions: Predictions, *, bins: int = 15) -> list[ReliabilityBin]:
    """Samples in bins of equal width by confidence, for a reliability diagram."""
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.searchsorted(edges, predictions.confidence, side="right") - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    confidence = np.bincount(place, weights=predictions.confidence, minlength=bins)
    right = np.bincount(place, weights=predictions.correct, minlength=bins)
    return [
        ReliabilityBin(
            low=float(edges[k]),
            high=float(edges[k + 1]),
            count=int(count[k]),
            confidence=float(confidence[k] / count[k]) if count[k] else float("nan"),
            accuracy=float(right[k] / count[k]) if count[k] else float("nan"),
        )
        for k in range(bins)
    ]


def calibration_error(predictions: Predictions, *, bins: int = 15) -> float:
    """Expected calibration error in [0, 1]: the mean gap between confidence and accuracy.

    torchmetrics' `multiclass_calibration_error` with the l1 norm, in float32: a confidence that rounds to 1
    has a bin of its own there. NaN without samples.
    """
    if not len(predictions):
        return math.nan
    import torch
    from torchmetrics.functional.classification import multiclass_calibration_error

    error = multiclass_calibration_error(
        torch.from_numpy(predictions.probabilities),
        torch.from_numpy(predictions.labels),
        num_classes=predictions.num_classes,
        n_bins=bins,
    )
    return float(error)


def temperature(predictions: Predictions) -> float:
    """The divisor of the logits that gives the lowest mean cross-entropy; above 1 for an overconfident network.

    No prediction changes by it. Searched between 0.05 and 20; if every sample is correct, the loss has no minimum and
    the result is near the lower end. Fitted on the samples that it is reported for, it is slightly optimistic. NaN
    without samples. Source: Guo et al. 2017, On Calibration of Modern Neural Networks.
    """
    if not len(predictions):
        return math.nan
    from scipy.optimize import minimize_scalar

    logits = predictions.logits.astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    own = logits[np.arange(len(logits)), predictions.labels]

    def mean_loss(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        return float((np.log(np.exp(logits * scale).sum(axis=1)) - own * scale).mean())

    # Convex in 1 / T, hence with one minimum in log T too.
    found = minimize_scalar(mean_loss, bounds=(np.log(_COLDEST), np.log(_HOTTEST)), method="bounded")
    return float(np.exp(found.x))


def with_temperature(predictions: Predictions, value: float) -> Predictions:
    """The same predictions with their logits divided by `value`."""
    scaled = (predictions.logits / np.float32(value)).astype(np.float32)
    return Predictions(scaled, predictions.labels, predictions.names, predictions.class_names)
