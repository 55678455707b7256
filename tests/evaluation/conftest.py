"""Made-up predictions for the tests of the evaluation."""

from collections.abc import Callable

import numpy as np
import pytest

from litlens.evaluation.predictions import Predictions


def _made_up(size: int, classes: int, *, strength: float, seed: int = 0) -> Predictions:
    """Gaussian logits, the label's raised by `strength`; the labels are the same for every seed."""
    labels = np.random.default_rng(99).integers(classes, size=size)
    logits = np.random.default_rng(seed).normal(size=(size, classes)).astype(np.float32)
    logits[np.arange(size), labels] += strength
    names = [f"test/{k:05d}" for k in range(size)]
    return Predictions(logits, labels, names, [f"class {k}" for k in range(classes)])


@pytest.fixture
def made_up() -> Callable[..., Predictions]:
    """Gives `made_up(size, classes, strength=, seed=)`."""
    return _made_up
