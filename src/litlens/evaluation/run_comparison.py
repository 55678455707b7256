"""Two classifiers on the same samples: the difference, its significance, the disagreements; and the page of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from litlens.errors import UserError
from litlens.evaluation.html import ImageOf, embedded_image, rendered
from litlens.evaluation.predictions import Predictions
from litlens.evaluation.scores import (
    Interval,
    accuracy,
    bootstrap_intervals,
    macro,
    macro_metrics,
    number_of_resamples,
    percentile_interval,
    resampled_counts,
    sums_by_class,
)

_DISAGREEMENTS = 24  # shown for each of the two sides


@dataclass(frozen=True, eq=False)
class Comparison:
    """The second classifier against the first: differences are positive where the second is better.

    `p_value` is that of McNemar's exact two-sided test. `only_first` and `only_second` are the samples that only one
    of the two predicts correctly, as indices into the first's; `differing` counts the samples that they predict as
    different classes.
    """

    accuracy: Interval
    f1: Interval
    p_value: float
    only_first: NDArray[np.int64]
    only_second: NDArray[np.int64]
    differing: int


def compare(
    first: Predictions, second: Predictions, *, resamples: int | None = None, seed: int = 0, level: float = 0.95
) -> Comparison:
    """Compare two classifiers sample by sample, with paired bootstrap intervals of accuracy and macro F1.

    Samples are matched by name. Raises UserError if the samples or labels of the two differ.
    """
    resamples = resamples or number_of_resamples(len(first))
    second = _in_order_of(first, second)
    only_first = np.flatnonzero(first.correct & ~second.correct)
    only_second = np.flatnonzero(~first.correct & second.correct)
    differences = _resampled_differences(first, second, resamples=resamples, seed=seed)
    gain = (len(only_second) - len(only_first)) / len(first)
    f1 = macro(second)["f1"] - macro(first)["f1"]
    return Comparison(
        accuracy=percentile_interval(gain, differences["accuracy"], level=level),
        f1=percentile_interval(f1, differences["f1"], level=level),
        p_value=mcnemar(len(only_first), len(only_second)),
        only_first=only_first,
        only_second=only_second,
        differing=int((first.predicted != second.predicted).sum()),
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """McNemar's exact two-sided p-value from the numbers of samples that only one of the two predicts correctly."""
    from scipy.stats import binomtest

    discordant = only_first + only_second
    return float(binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0


def _in_order_of(first: Predictions, second: Predictions) -> Predictions:
    if list(first.class_names) != list(second.class_names):
        raise UserError("the two runs cannot be compared: their class names differ")
    row_of = {name: row for row, name in enumerate(second.names)}
    shared = sum(name in row_of for name in first.names)
    if shared != len(first) or len(first) != len(second):
        raise UserError(
            f"the two runs cannot be compared: they were tested on {len(first)} and {len(second)} samples, "
            f"of which {shared} are the same; test both on one data set"
        )
    rows = [row_of[name] for name in first.names]
    if not np.array_equal(first.labels, second.labels[rows]):
        raise UserError("the two runs cannot be compared: the labels of some samples differ")
    return second.subset(rows)


def _resampled_differences(
    first: Predictions, second: Predictions, *, resamples: int, seed: int
) -> dict[str, NDArray[np.float64]]:
    triples = np.stack([first.labels, first.predicted, second.predicted])
    cells, counts = np.unique(triples, axis=1, return_counts=True)
    labels, one, other = cells
    better = np.float32(labels == other) - np.float32(labels == one)
    gains, f1 = [], []
    for drawn in resampled_counts(counts, resamples=resamples, generator=np.random.default_rng(seed)):

        def sums(classes: NDArray[np.int64], drawn: NDArray[np.float32] = drawn) -> NDArray[np.float32]:
            return sums_by_class(drawn, classes, first.num_classes)

        def macro_f1(predicted: NDArray[np.int64]) -> NDArray[np.float64]:
            return macro_metrics(sums(np.where(labels == predicted, labels, -1)), sums(labels), sums(predicted))["f1"]

        gains.append((drawn @ better).astype(np.float64) / len(first))
        f1.append(macro_f1(other) - macro_f1(one))
    return {"accuracy": np.concatenate(gains), "f1": np.concatenate(f1)}


def render_comparison(runs: Mapping[str, Predictions], comparisons: Mapping[str, Comparison], *, image: ImageOf) -> str:
    """The page as HTML: `runs` by name, and the result of `compare(first run, other)` for every other one.

    `image` gives the first run's images uint8 (H, W, 1 or 3) by their index.
    """
    first, *others = runs
    return rendered(
        "comparison.html",
        first=first,
        total=len(runs[first]),
        resamples=number_of_resamples(len(runs[first])),
        rows=[(name, accuracy(run), bootstrap_intervals(run)["f1"]) for name, run in runs.items()],
        pairs=[
            (name, comparisons[name], *_disagreements(runs[first], runs[name], comparisons[name], image=image))
            for name in others
        ],
    )


def _disagreements(
    first: Predictions, other: Predictions, result: Comparison, *, image: ImageOf
) -> list[list[dict[str, Any]]]:
    """Cards of the samples that only the other or only the first predicts correctly, most confident mistakes first."""
    row_of = {sample: row for row, sample in enumerate(other.names)}
    rows = [row_of[name] for name in first.names]

    def card(k: int) -> dict[str, Any]:
        label, small = first.class_names[first.labels[k]], embedded_image(image(k), side=96)
        guesses = [_guess(first, k), _guess(other, rows[k])]
        return {"name": first.names[k], "label": label, "image": small, "guesses": guesses}

    sides = []
    for indices, confidence in ((result.only_second, first.confidence), (result.only_first, other.confidence[rows])):
        most_confident = indices[np.argsort(-confidence[indices], kind="stable")][:_DISAGREEMENTS]
        sides.append([card(int(k)) for k in most_confident])
    return sides


def _guess(predictions: Predictions, index: int) -> tuple[str, float]:
    return predictions.class_names[predictions.predicted[index]], float(predictions.confidence[index])
