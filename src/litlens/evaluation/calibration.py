"""Calibration: whether predictions of 90 % confidence are correct nine times in ten, and temperature scaling."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from litlens.evaluation.predictions import Predictions, sums_of_exponentials

_LOWEST, _HIGHEST = 0.05, 20.0  # temperatures


class Reliability(NamedTuple):
    """Samples in bins of equal width by confidence: how many, their mean confidence, their accuracy, each `(bins,)`.

    The means are NaN in an empty bin; the last bin includes a confidence of 1.
    """

    samples: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]


def reliability(predictions: Predictions, *, bins: int = 15) -> Reliability:
    """Bin samples by confidence, for a reliability diagram."""
    place = np.clip(np.searchsorted(np.linspace(0, 1, bins + 1), predictions.confidence, side="right") - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    confidence = np.bincount(place, weights=predictions.confidence, minlength=bins)
    right = np.bincount(place, weights=predictions.correct, minlength=bins)
    with np.errstate(invalid="ignore"):  # 0 / 0
        return Reliability(count, confidence / count, right / count)


def calibration_error(predictions: Predictions, *, bins: int = 15) -> float:
    """Expected calibration error in [0, 1]: the mean gap between confidence and accuracy. NaN without samples."""
    if not len(predictions):
        return math.nan
    table = reliability(predictions, bins=bins)
    return float(np.nansum(table.samples * abs(table.confidence - table.accuracy)) / len(predictions))


def temperature(predictions: Predictions) -> float:
    """The divisor of the logits with the lowest mean cross-entropy; above 1 for an overconfident network.

    It changes no prediction. Searched between 0.05 and 20: if every sample is correct, the loss has no minimum and
    the result is near the lower end. Reported for the samples it was fitted on, it is slightly optimistic. NaN
    without samples. Source: Guo et al. 2017, On Calibration of Modern Neural Networks.
    """
    if not len(predictions):
        return math.nan
    from scipy.optimize import minimize_scalar

    logits, labels = predictions.logits, predictions.labels[:, None]
    largest = logits.max(axis=1, keepdims=True).astype(np.float64)
    own = (np.take_along_axis(logits, labels, axis=1) - largest)[:, 0]

    def mean_loss(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        return float((np.log(sums_of_exponentials(logits, largest, scale=scale)[:, 0]) - own * scale).mean())

    # Convex in 1 / T, hence with one minimum in log T too.
    found = minimize_scalar(mean_loss, bounds=(np.log(_LOWEST), np.log(_HIGHEST)), method="bounded")
    return float(np.exp(found.x))


def with_temperature(predictions: Predictions, value: float) -> Predictions:
    """Divide the logits by a temperature."""
    scaled = predictions.logits / np.float32(value)
    return Predictions(scaled, predictions.labels, predictions.names, predictions.class_names)
