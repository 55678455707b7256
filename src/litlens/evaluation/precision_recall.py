"""Precision against recall of every class, as the threshold on its probability falls."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from litlens.evaluation.predictions import Predictions
from litlens.evaluation.style import GRAY, PALETTE, house_style, new_figure, plain_axes, shortened


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """One class against all others: precision and recall (T,) at T thresholds, recall falling from 1 to 0.

    `average_precision` is the area under the steps, as scikit-learn defines it.
    """

    name: str
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    average_precision: float


def precision_recall_curves(predictions: Predictions) -> list[PrecisionRecall]:
    """The curve of every class, in the order of the class names; a class without a sample has none."""
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


@house_style
def precision_recall_figure(curves: Sequence[PrecisionRecall], *, title: str = "Precision and recall") -> Figure:
    """All curves, the classes with the lowest average precision in color and named, the others in gray."""
    figure = new_figure(6.6, 4.4)
    axes = figure.add_subplot()
    plain_axes(axes)
    worst = sorted(curves, key=lambda curve: curve.average_precision)
    named, others = worst[: len(PALETTE)], worst[len(PALETTE) :]
    for number, curve in enumerate(others):
        label = None if number else f"{len(others)} others"
        axes.step(curve.recall, curve.precision, where="post", color=GRAY, linewidth=0.7, alpha=0.6, label=label)
    for curve, color in reversed(list(zip(named, PALETTE, strict=False))):
        label = f"{shortened(curve.name)}  {100 * curve.average_precision:.2f} %"
        axes.step(curve.recall, curve.precision, where="post", color=color, linewidth=1.6, label=label)
    mean = np.mean([curve.average_precision for curve in curves]) if curves else np.nan
    # What a good network gets wrong lies in the corner: show that, and the whole only where it is needed.
    missing = 1 - min((curve.average_precision for curve in curves), default=0.0)
    start = max(0.0, np.floor(10 * (0.99 - 20 * missing)) / 10)
    limits = (start, 1 + 0.01 * (1 - start))
    axes.set(xlim=limits, ylim=limits, xlabel="recall", ylabel="precision")
    axes.set_title(f"{title}: mean average precision {100 * mean:.2f} %", pad=10)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        handles[::-1],
        labels[::-1],
        title="average precision, lowest first",
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        frameon=False,
        alignment="left",
    )
    return figure
