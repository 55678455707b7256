"""Two classifiers on the same samples: how large the difference is, if it is chance, where they disagree."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from litlens.errors import UserError
from litlens.evaluation.intervals import Interval, percentile_interval, resampled_counts
from litlens.evaluation.measures import macro, macro_figures
from litlens.evaluation.predictions import Predictions


@dataclass(frozen=True, eq=False)
class Comparison:
    """The second classifier against the first: differences are positive where the second is better.

    `p_value` is McNemar's exact, two-sided: how likely a split as uneven as `only_first : only_second` is if
    both are equally good. `only_first` and `only_second` are the samples that one gets right and the other
    wrong, as indices into the first's.
    """

    accuracy: Interval
    f1: Interval
    p_value: float
    only_first: NDArray[np.int64]
    only_second: NDArray[np.int64]


def compare(
    first: Predictions, second: Predictions, *, resamples: int = 10_000, seed: int = 0, level: float = 0.95
) -> Comparison:
    """Compare two classifiers sample by sample, with paired bootstrap intervals of accuracy and macro F1.

    Samples are matched by name. Raises UserError where the two were not made on the same samples and labels.
    """
    second = _in_order_of(first, second)
    only_first = np.flatnonzero(first.correct & ~second.correct)
    only_second = np.flatnonzero(~first.correct & second.correct)
    differences = _resampled_differences(first, second, resamples=resamples, seed=seed)
    accuracy = (len(only_second) - len(only_first)) / len(first)
    f1 = macro(second)["f1"] - macro(first)["f1"]
    return Comparison(
        accuracy=percentile_interval(accuracy, differences["accuracy"], level=level),
        f1=percentile_interval(f1, differences["f1"], level=level),
        p_value=mcnemar(len(only_first), len(only_second)),
        only_first=only_first,
        only_second=only_second,
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """McNemar's exact two-sided p-value from how many samples only the one or the other got right."""
    from scipy.stats import binomtest

    discordant = only_first + only_second
    return float(binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0


def _in_order_of(first: Predictions, second: Predictions) -> Predictions:
    if list(first.class_names) != list(second.class_names):
        raise UserError("the two runs cannot be compared: their classes differ")
    row_of = {name: row for row, name in enumerate(second.names)}
    shared = sum(name in row_of for name in first.names)
    if shared != len(first) or len(first) != len(second):
        raise UserError(
            f"the two runs cannot be compared: they were tested on {len(first)} and {len(second)} samples, "
            f"of which {shared} are the same; test both on one data set"
        )
    rows = np.array([row_of[name] for name in first.names], dtype=np.int64)
    if not np.array_equal(first.labels, second.labels[rows]):
        raise UserError("the two runs cannot be compared: the labels of some samples differ")
    return Predictions(second.logits[rows], second.labels[rows], first.names, second.class_names)


def _resampled_differences(
    first: Predictions, second: Predictions, *, resamples: int, seed: int
) -> dict[str, NDArray[np.float64]]:
    triples = np.stack([first.labels, first.predicted, second.predicted])
    cells, counts = np.unique(triples, axis=1, return_counts=True)
    classes = np.arange(first.num_classes)
    labelled, one, other = (np.float32(side[:, None] == classes) for side in cells)
    better = np.float32(cells[0] == cells[2]) - np.float32(cells[0] == cells[1])
    accuracy, f1 = [], []
    for drawn in resampled_counts(counts, resamples=resamples, generator=np.random.default_rng(seed)):
        label_counts = drawn @ labelled
        accuracy.append((drawn @ better).astype(np.float64) / len(first))
        f1.append(
            macro_figures(drawn @ (labelled * other), label_counts, drawn @ other)["f1"]
            - macro_figures(drawn @ (labelled * one), label_counts, drawn @ one)["f1"]
        )
    return {"accuracy": np.concatenate(accuracy), "f1": np.concatenate(f1)}
