"""Stands in for the module of that name until it is merged."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from litlens.evaluation.figures import _figure, _in_house_style
from litlens.evaluation.predictions import Predictions


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """One class's curve."""

    name: str
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    average_precision: float


def precision_recall_curves(predictions: Predictions) -> list[PrecisionRecall]:
    """The curves of the classes that have samples."""
    from sklearn.metrics import average_precision_score, precision_recall_curve

    curves = []
    for k, name in enumerate(predictions.class_names):
        own, scores = predictions.labels == k, predictions.probabilities[:, k]
        if own.any():
            precision, recall, _ = precision_recall_curve(own, scores)
            curves.append(PrecisionRecall(name, precision, recall, float(average_precision_score(own, scores))))
    return curves


@_in_house_style
def precision_recall_figure(curves: list[PrecisionRecall]) -> Figure:
    """All curves in one picture."""
    figure = _figure(4.6, 4.2)
    axes: Any = figure.add_subplot()
    for curve in curves:
        axes.step(curve.recall, curve.precision, where="post", linewidth=1)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    return figure
