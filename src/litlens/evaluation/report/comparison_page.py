"""The page that sets runs side by side, each against the first: how far apart, if by chance, and on which samples."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from litlens.evaluation.bootstrap import bootstrap_intervals
from litlens.evaluation.comparison import Comparison
from litlens.evaluation.intervals import Interval
from litlens.evaluation.measures import accuracy
from litlens.evaluation.predictions import Predictions
from litlens.evaluation.report.cards import Image, ranking
from litlens.evaluation.report.embedding import embedded_image
from litlens.evaluation.report.rendering import rendered

_DISAGREEMENTS = 24  # shown for each of the two sides

Guess = tuple[str, float]  # a class and its probability


@dataclass(frozen=True)
class _Row:
    run: str
    accuracy: Interval
    f1: Interval


@dataclass(frozen=True)
class _Disagreement:
    name: str
    label: str
    image: str
    first: Guess
    other: Guess


@dataclass(frozen=True)
class _Pair:
    other: str
    result: Comparison
    only_first: list[_Disagreement]
    only_other: list[_Disagreement]


def render_comparison(runs: Mapping[str, Predictions], comparisons: Mapping[str, Comparison], *, image: Image) -> str:
    """The page as HTML: `runs` by name, and what `compare(first run, other)` gave for every other one.

    `image` gives the first run's images uint8 (H, W, 1 or 3) by their index.
    """
    first, *others = runs
    return rendered(
        "comparison.html",
        first=first,
        total=len(runs[first]),
        rows=[_Row(name, accuracy(run), bootstrap_intervals(run)["f1"]) for name, run in runs.items()],
        pairs=[_pair(runs[first], name, runs[name], comparisons[name], image=image) for name in others],
    )


def _pair(first: Predictions, name: str, other: Predictions, result: Comparison, *, image: Image) -> _Pair:
    row_of = {sample: row for row, sample in enumerate(other.names)}

    def shown(indices: NDArray[np.int64], *, sure: Predictions) -> list[_Disagreement]:
        rows = {int(k): k if sure is first else row_of[first.names[k]] for k in indices}
        surest = sorted(rows, key=lambda k: (-sure.confidence[rows[k]], k))[:_DISAGREEMENTS]
        return [
            _Disagreement(
                name=first.names[k],
                label=first.class_names[first.labels[k]],
                image=embedded_image(image(k), side=96),
                first=ranking(first.probabilities[k], first.class_names)[0],
                other=ranking(other.probabilities[row_of[first.names[k]]], other.class_names)[0],
            )
            for k in surest
        ]

    # The surest of whoever is wrong come first.
    return _Pair(name, result, shown(result.only_first, sure=other), shown(result.only_second, sure=first))
