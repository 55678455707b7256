"""Figures: what they show is what they were given, at any number of classes, whatever the rcParams are."""

import subprocess
import sys
import warnings
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from litlens.evaluation.calibration import calibration_error, reliability
from litlens.evaluation.figures import (
    confusion_matrix_figure,
    learning_curves_figure,
    per_class_figure,
    reliability_figure,
)
from litlens.evaluation.scores import class_table
from litlens.evaluation.style import pixels, svg

HISTORY = [
    {"epoch": 0, "loss/train": 0.9, "loss/val": 0.8, "accuracy/train": 0.7, "accuracy/val": 0.75},
    {"epoch": 1, "loss/train": 0.5, "loss/val": 0.6, "accuracy/train": 0.8, "accuracy/val": 0.90},
    {"epoch": 2, "loss/train": 0.3, "loss/val": 0.7, "accuracy/train": 0.9, "accuracy/val": 0.85},
]


def test_two_classes_show_every_count() -> None:
    figure = confusion_matrix_figure([[40, 2], [0, 56]], ["cat", "dog"])
    axes = figure.axes[0]
    assert sorted(text.get_text() for text in axes.texts) == ["2", "40", "56"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["cat", "dog"]
    assert axes.get_title(loc="left") == "Confusion matrix: 97.96 % accuracy, 98 images"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "label")
    np.testing.assert_allclose(axes.images[0].get_array() ** 2, [[40 / 42, 2 / 42], [0, 1]])


def test_sixty_two_classes_show_no_numbers_and_few_names(made_up) -> None:
    some = made_up(7800, 62, strength=4.0)
    for small, second in ((False, "class 2"), (True, "class 4")):
        figure = confusion_matrix_figure(some.confusion_matrix, some.class_names, small=small)
        axes = figure.axes[0]
        assert not axes.texts
        assert 10 <= len(axes.get_xticks()) <= (16 if small else 32)
        assert [label.get_text() for label in axes.get_yticklabels()][:2] == ["class 0", second]
    assert max(pixels(figure).shape) <= 720  # twice a card of TensorBoard


def test_a_cell_of_a_thousand_classes_is_the_largest_of_sixteen() -> None:
    counts = np.eye(1000, dtype=int)
    counts[998, 3] = 1
    axes = confusion_matrix_figure(counts, [f"class {k}" for k in range(1000)], small=True).axes[0]
    expected = np.eye(250)
    expected[249, 0] = 0.5
    np.testing.assert_allclose(axes.images[0].get_array() ** 2, expected)
    assert axes.images[0].get_extent() == [-0.5, 999.5, 999.5, -0.5]
    assert len(axes.get_yticklabels()) <= 16


@pytest.mark.parametrize("classes", [1, 2, 10, 20, 21, 62])
def test_long_names_fit_into_the_figure_without_a_warning(classes: int) -> None:
    names = [f"$x_{k}$ <script> an endless name that ends in {k}" for k in range(classes)]
    figure = confusion_matrix_figure(np.eye(classes, dtype=int) * 1000, names)
    image = pixels(figure)
    assert image.dtype == np.uint8
    for edge in (image[0], image[-1], image[:, 0], image[:, -1]):
        assert np.all(edge == 255)
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert len(set(labels)) == len(labels)
    assert labels[0].startswith("$x_0$ <s")


def test_names_in_other_scripts_do_not_stop_a_run() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels(confusion_matrix_figure([[1, 0], [0, 1]], ["猫", "собака"]))


def test_no_samples_at_all_are_drawn_too() -> None:
    axes = confusion_matrix_figure(np.zeros((2, 2)), ["a", "b"]).axes[0]
    assert axes.get_title(loc="left") == "Confusion matrix: 0.00 % accuracy, 0 images"


def test_curves_show_the_history_and_mark_the_best_validation() -> None:
    figure = learning_curves_figure(HISTORY)
    loss, accuracy = figure.axes
    assert loss.get_title(loc="left") == "Loss: best validation 0.6000, epoch 1"
    assert accuracy.get_title(loc="left") == "Accuracy: best validation 90.00 %, epoch 1"
    drawn = {line.get_label(): line.get_ydata().tolist() for line in loss.lines}
    assert drawn["training"] == [0.9, 0.5, 0.3]
    assert drawn["validation"] == [0.8, 0.6, 0.7]
    assert accuracy.lines[0].get_xdata().tolist() == [0, 1, 2]
    assert loss.get_position().y0 > accuracy.get_position().y1
    (alone,) = learning_curves_figure(HISTORY, ["accuracy"]).axes
    assert alone.get_title(loc="left") == accuracy.get_title(loc="left")


@pytest.mark.parametrize(
    "history",
    [
        [],
        HISTORY[:1],
        [{"epoch": 0, "loss/train": 1.0}, {"epoch": 1, "loss/train": float("nan"), "loss/val": float("inf")}],
        [{**HISTORY[0], "epoch": epoch} for epoch in range(300)],
    ],
    ids=["empty", "one", "gaps", "long"],
)
def test_curves_of_any_history_are_drawn_without_a_warning(history) -> None:
    pixels(learning_curves_figure(history))


def test_the_reliability_diagram_shows_its_bins(made_up) -> None:
    some = made_up(2000, 5, strength=1.0)
    bins = reliability(some, bins=10)
    figure = reliability_figure(bins, error=calibration_error(some, bins=10))
    upper, lower = figure.axes
    heights = [bar.get_height() for bar in upper.patches]
    np.testing.assert_allclose(heights, bins.accuracy)
    assert sum(bar.get_height() for bar in lower.patches) == pytest.approx(1)
    pixels(figure)


def test_rcparams_change_no_pixel_and_are_not_changed() -> None:
    plain = pixels(learning_curves_figure(HISTORY))
    odd = {"font.size": 30, "axes.facecolor": "red", "lines.linewidth": 9, "savefig.dpi": 7, "figure.dpi": 20}
    with matplotlib.rc_context(odd):
        assert np.array_equal(plain, pixels(learning_curves_figure(HISTORY)))
        assert matplotlib.rcParams["font.size"] == 30


def test_pyplot_stays_out() -> None:
    code = (
        "import sys, litlens.evaluation.figures as f; from litlens.evaluation.style import pixels;"
        "pixels(f.learning_curves_figure([]));"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_classes_with_the_lowest_f1_come_first_and_no_more_than_fit(made_up) -> None:
    table = class_table(made_up(3000, 62, strength=2.0))
    axes = per_class_figure(table).axes[0]
    worst = sorted(table, key=lambda row: row.f1)[:30]
    assert [label.get_text() for label in axes.get_yticklabels()] == [row.name for row in worst]
    drawn = {line.get_label(): list(line.get_xdata()) for line in axes.lines}
    assert drawn["recall"] == [row.recall for row in worst]
    assert [text.get_text() for text in axes.texts] == [f"{row.labeled}" for row in worst]
    assert "the 30 of 62" in axes.get_title(loc="left")


@pytest.mark.parametrize("classes", [1, 2, 62])
def test_any_number_of_classes_has_a_figure_that_fits(made_up, classes: int) -> None:
    image = pixels(per_class_figure(class_table(made_up(300, classes, strength=9.0))))
    for edge in (image[0], image[-1], image[:, 0], image[:, -1]):
        assert np.all(edge == 255)


def test_a_drawing_has_its_names_as_text_and_no_date() -> None:
    name = "<b>a & b</b>"
    drawing = svg(confusion_matrix_figure([[3, 1], [0, 4]], [name, "猫"]))
    texts = {element.text for element in ElementTree.fromstring(drawing).iter() if element.tag.endswith("}text")}
    assert {name, "猫", "3", "predicted"} <= texts
    assert "date>" not in drawing
    assert drawing == svg(confusion_matrix_figure([[3, 1], [0, 4]], [name, "猫"]))
