"""Made-up predictions, and a stopwatch, for the tests of the evaluation."""

import time
import timeit
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


def _processor_seconds(call: Callable[[], object]) -> float:
    """Of this process alone, and the least of three calls: a neighbor on the same core slows a process too."""
    return min(timeit.repeat(call, timer=time.process_time, number=1, repeat=3))


@pytest.fixture
def processor_seconds() -> Callable[[Callable[[], object]], float]:
    """Gives `processor_seconds(call)`."""
    return _processor_seconds
