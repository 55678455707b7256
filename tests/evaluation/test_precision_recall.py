"""Curves against scikit-learn, at any number of classes."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve

from litlens.evaluation.figures import precision_recall_figure
from litlens.evaluation.predictions import Predictions
from litlens.evaluation.scores import precision_recall_curves
from litlens.evaluation.style import pixels


@pytest.mark.parametrize("classes", [2, 7])
def test_the_curves_are_scikit_learns(made_up, classes: int) -> None:
    some = made_up(500, classes, strength=1.0)
    curves = precision_recall_curves(some)
    assert [curve.name for curve in curves] == list(some.class_names)
    for label, curve in enumerate(curves):
        positive, scores = some.labels == label, some.probabilities[:, label]
        assert curve.average_precision == pytest.approx(average_precision_score(positive, scores))
        precision, recall, _ = precision_recall_curve(positive, scores)
        every_point = set(zip(recall.tolist(), precision.tolist(), strict=True))
        assert set(zip(curve.recall.tolist(), curve.precision.tolist(), strict=True)) <= every_point


def test_a_class_without_samples_has_no_curve_and_nothing_warns() -> None:
    some = Predictions(np.eye(3, dtype=np.float32)[[0, 2]], np.array([0, 2]), ["x", "y"], ["a", "b", "c"])
    assert [curve.name for curve in precision_recall_curves(some)] == ["a", "c"]


def test_many_classes_name_the_worst_and_leave_the_others_gray(made_up) -> None:
    curves = precision_recall_curves(made_up(3000, 62, strength=2.0))
    axes = precision_recall_figure(curves).axes[0]
    words = [text.get_text() for text in axes.get_legend().get_texts()]
    worst = sorted(curves, key=lambda curve: curve.average_precision)
    assert words[0].split("  ")[0] == worst[0].name
    assert words[-1] == "56 others"
    assert len(words) == 7
    assert len(axes.lines) == 62
    mean = np.mean([curve.average_precision for curve in curves])
    assert axes.get_title(loc="left").endswith(f"{100 * mean:.2f} %")


@pytest.mark.parametrize("number", [0, 1, 2, 62])
def test_any_number_of_classes_is_drawn_without_a_warning(made_up, number: int) -> None:
    curves = precision_recall_curves(made_up(400, max(number, 1), strength=3.0))[:number]
    pixels(precision_recall_figure(curves))
