"""Bootstrap intervals for the figures of one set of predictions that have no formula of their own."""

import numpy as np
from numpy.typing import NDArray

from litlens.evaluation.intervals import Interval, percentile_interval, resampled_counts, resampled_means
from litlens.evaluation.measures import loss, macro, macro_figures, sample_losses
from litlens.evaluation.predictions import Predictions


def bootstrap_intervals(
    predictions: Predictions, *, resamples: int = 10_000, seed: int = 0, level: float = 0.95
) -> dict[str, Interval]:
    """Percentile intervals of macro precision, recall and F1, and of the loss; for accuracy take Wilson's.

    Samples are drawn one by one, so where images come in groups the intervals are too narrow.
    """
    macro_generator, loss_generator = np.random.default_rng(seed).spawn(2)
    resampled = _resampled_macro(predictions, resamples=resamples, generator=macro_generator)
    intervals = {
        name: percentile_interval(value, resampled[name], level=level) for name, value in macro(predictions).items()
    }
    means = resampled_means(sample_losses(predictions), resamples=resamples, generator=loss_generator)
    intervals["loss"] = percentile_interval(loss(predictions), means, level=level)
    return intervals


def _resampled_macro(
    predictions: Predictions, *, resamples: int, generator: np.random.Generator
) -> dict[str, NDArray[np.float64]]:
    cells, counts = np.unique(np.stack([predictions.labels, predictions.predicted]), axis=1, return_counts=True)
    classes = np.arange(predictions.num_classes)
    labelled, predicted = (np.float32(side[:, None] == classes) for side in cells)  # (C, K) each: cell -> class
    right = labelled * predicted
    chunks = [
        macro_figures(drawn @ right, drawn @ labelled, drawn @ predicted)
        for drawn in resampled_counts(counts, resamples=resamples, generator=generator)
    ]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
