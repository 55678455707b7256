"""Calibration against torchmetrics, and a temperature that is known."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from litlens.evaluation.calibration import calibration_error, reliability, temperature, with_temperature
from litlens.evaluation.predictions import Predictions
from litlens.evaluation.scores import loss


def calibrated(size: int, classes: int) -> Predictions:
    """Labels drawn from the very probabilities, so the best temperature is 1."""
    generator = np.random.default_rng(0)
    logits = generator.normal(scale=2, size=(size, classes)).astype(np.float32)
    labels = (logits + generator.gumbel(size=(size, classes))).argmax(axis=1)
    return Predictions(logits, labels, [str(k) for k in range(size)], [str(k) for k in range(classes)])


@pytest.mark.parametrize("bins", [10, 15])
def test_the_error_is_that_of_torchmetrics(made_up, bins: int) -> None:
    some = made_up(3000, 5, strength=1.0)
    assert reliability(some, bins=bins).samples.sum() == 3000
    expected = multiclass_calibration_error(
        torch.from_numpy(some.logits).softmax(dim=1),
        torch.from_numpy(some.labels),
        num_classes=5,
        n_bins=bins,
    )
    assert calibration_error(some, bins=bins) == pytest.approx(float(expected), abs=1e-5)


def test_bins_by_hand() -> None:
    some = Predictions(
        np.log([[0.6, 0.4], [0.9, 0.1], [0.95, 0.05], [1e-30, 1]]), [0, 0, 1, 1], list("abcd"), ["x", "y"]
    )
    table = reliability(some, bins=4)
    assert table.samples.tolist() == [0, 0, 1, 3]
    np.testing.assert_allclose(table.confidence, [np.nan, np.nan, 0.6, (0.9 + 0.95 + 1) / 3], atol=1e-6)
    np.testing.assert_allclose(table.accuracy, [np.nan, np.nan, 1, 2 / 3])


def test_the_temperature_that_was_put_in_comes_out() -> None:
    some = calibrated(20_000, 6)
    assert temperature(some) == pytest.approx(1, abs=0.03)
    sure = with_temperature(some, 1 / 3)
    assert temperature(sure) == pytest.approx(3, abs=0.1)
    cooled = with_temperature(sure, temperature(sure))
    assert cooled.predicted.tolist() == some.predicted.tolist()
    assert calibration_error(cooled) < 0.02 < 0.1 < calibration_error(sure)


def test_the_temperature_is_the_least_loss_on_a_grid(made_up) -> None:
    some = made_up(500, 5, strength=1.0)
    grid = np.linspace(0.3, 3, 271)
    losses = [loss(with_temperature(some, float(value))) for value in grid]
    assert temperature(some) == pytest.approx(grid[np.argmin(losses)], abs=0.011)


def test_without_a_mistake_the_temperature_falls_but_not_for_ever(made_up) -> None:
    assert temperature(made_up(50, 3, strength=9.0)) < 0.3
