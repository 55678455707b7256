"""The report of one run: what it is worth, where it errs and why, and how it was made."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from litlens.evaluation.bootstrap import bootstrap_intervals
from litlens.evaluation.calibration import calibration_error, reliability, temperature, with_temperature
from litlens.evaluation.figures import confusion_matrix_figure, learning_curves_figure, reliability_figure
from litlens.evaluation.intervals import Interval, noise_difference, wilson_interval
from litlens.evaluation.measures import (
    ClassFigures,
    accuracy,
    class_table,
    confusion_matrix,
    most_confused,
    self_confidence,
    suspected_label_errors,
)
from litlens.evaluation.precision_recall import precision_recall_curves, precision_recall_figure
from litlens.evaluation.predictions import Predictions
from litlens.evaluation.report.cards import Card, Image, least_sure, sample_card, shown_samples, worst_mistakes
from litlens.evaluation.report.embedding import embedded_figure, embedded_image
from litlens.evaluation.report.rendering import rendered
from litlens.explain.map_layers import NoMapError

_MISTAKES = 24  # shown large, with a map each
_FEW = 6  # of so many large images, those missing are right but least sure
_SAMPLES = 400  # shown small
_SUSPECTS = 30

Overlays = Callable[[Sequence[int]], Sequence[NDArray[np.uint8]]]


@dataclass(frozen=True)
class RunFacts:
    """What the page tells of a run besides its predictions.

    `validation` is the accuracy it was chosen by, where known; `history` as in `learning_curves_figure`; `facts`
    and `environment` are rows of a table.
    """

    title: str
    validation: float | None
    history: Sequence[Mapping[str, float]]
    facts: Mapping[str, str]
    config: str
    environment: Mapping[str, str]


@dataclass(frozen=True)
class _ClassRow:
    figures: ClassFigures
    recall: Interval | None  # Wilson's; None for a class without samples
    average_precision: float | None


def render_report(predictions: Predictions, *, run: RunFacts, image: Image, overlays: Overlays) -> str:
    """The page as HTML, a function of what is given: equal arguments give equal text.

    `image` gives a sample's image uint8 (H, W, 1 or 3) by its index, `overlays` the images of some samples
    with a map of where the network looked laid over them, RGB. Where that raises NoMapError, its message takes
    the maps' place.
    """
    error, warmth = calibration_error(predictions), temperature(predictions)
    samples = shown_samples(predictions, limit=_SAMPLES)
    large, no_map = _large_cards(predictions, image=image, overlays=overlays)
    confidence = self_confidence(predictions)
    confusion = confusion_matrix_figure(confusion_matrix(predictions), predictions.class_names, title="Test")
    return rendered(
        "report.html",
        run=run,
        predictions=predictions,
        accuracy=accuracy(predictions),
        intervals=bootstrap_intervals(predictions),
        wrong=int((~predictions.correct).sum()),
        noise=noise_difference(int(predictions.correct.sum()), len(predictions)),
        curves=embedded_figure(learning_curves_figure(run.history)) if run.history else None,
        confusion=embedded_figure(confusion),
        rows=_class_rows(predictions),
        calibration_error=error,
        reliability=embedded_figure(reliability_figure(reliability(predictions), error=error)),
        temperature=warmth,
        error_then=calibration_error(with_temperature(predictions, warmth)),
        precision_recall=embedded_figure(precision_recall_figure(precision_recall_curves(predictions))),
        pairs=most_confused(predictions),
        mistakes=[card for card in large if card.label != card.predicted],
        unsure=[card for card in large if card.label == card.predicted],
        no_map=no_map,
        suspects=[(int(k), confidence[k]) for k in suspected_label_errors(predictions, limit=_SUSPECTS)],
        cards=[sample_card(predictions, k, image=embedded_image(image(k), side=96)) for k in samples],
    )


def _large_cards(predictions: Predictions, *, image: Image, overlays: Overlays) -> tuple[list[Card], str | None]:
    chosen = worst_mistakes(predictions, limit=_MISTAKES)
    chosen += least_sure(predictions, limit=max(0, _FEW - len(chosen)))
    laid: Sequence[NDArray[np.uint8] | None] = [None] * len(chosen)
    no_map = None
    try:
        laid = overlays(chosen)
    except NoMapError as error:
        no_map = str(error)
    cards = [
        sample_card(
            predictions,
            index,
            image=embedded_image(image(index), side=160),
            overlay=None if over is None else embedded_image(over, side=160),
        )
        for index, over in zip(chosen, laid, strict=True)
    ]
    return cards, no_map


def _class_rows(predictions: Predictions) -> list[_ClassRow]:
    areas = {curve.name: curve.average_precision for curve in precision_recall_curves(predictions)}
    right = np.diagonal(confusion_matrix(predictions))
    return [
        _ClassRow(
            figures=row,
            recall=wilson_interval(int(hits), row.labelled) if row.labelled else None,
            average_precision=areas.get(row.name),
        )
        for row, hits in zip(class_table(predictions), right, strict=True)
    ]
