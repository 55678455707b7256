"""The report of one run: its metrics, its mistakes, and how it was trained."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from litlens.evaluation.calibration import calibration_error, reliability, temperature, with_temperature
from litlens.evaluation.figures import (
    confusion_matrix_figure,
    learning_curves_figure,
    precision_recall_figure,
    reliability_figure,
)
from litlens.evaluation.html import (
    Card,
    ImageOf,
    embedded_figure,
    embedded_image,
    least_confident,
    rendered,
    sample_card,
    shown_samples,
)
from litlens.evaluation.predictions import Predictions
from litlens.evaluation.scores import (
    accuracy,
    bootstrap_intervals,
    class_table,
    label_errors,
    most_confused,
    noise_difference,
    number_of_resamples,
    precision_recall_curves,
    wilson_interval,
    worst_mistakes,
)
from litlens.evaluation.search_figures import SearchResult, search_figure
from litlens.explain.map_layers import NoMapError
from litlens.files import write_atomically

_MISTAKES = 24  # shown large, each with a map
_FEW = 6  # with fewer mistakes, the least confident correct images are added up to this number
_SAMPLES = 400  # shown small
_MANY = 100  # classes; the table of more scrolls

Overlays = Callable[[Sequence[int]], Sequence[NDArray[np.uint8]]]


@dataclass(frozen=True)
class CrossValidation:
    """What the page shows of a cross-validation.

    Args:
        folds: For each fold `accuracy_val`, `loss_val`, `f1_val`, `n_val` and `epochs`.
        means: `mean` and `std` of `accuracy`, `loss` and `f1` over the folds.
        best_fold: The number of the fold that is tested, from 1.
        predictions: Of each image by the network that was not trained on it.
        image: Their images uint8 (H, W, 1 or 3) by index; None where they are not at hand.
    """

    folds: Sequence[Mapping[str, float]]
    means: Mapping[str, Mapping[str, float]]
    best_fold: int
    predictions: Predictions
    image: ImageOf | None = None


@dataclass(frozen=True)
class RunFacts:
    """What the page shows about a run besides its predictions.

    `validation` is the accuracy that the checkpoint was selected on; `trained_on` and `validated_on` are how many of
    the predicted images the run was trained and validated on. None of them needs to be known. `history` is as in
    `learning_curves_figure`; `facts` and `environment` are rows of a table; `config` is YAML.
    """

    title: str = "Test"
    validation: float | None = None
    history: Sequence[Mapping[str, float]] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    config: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    trained_on: int | None = None
    validated_on: int | None = None
    cross_validation: CrossValidation | None = None
    search: SearchResult | None = None


def write_report(
    predictions: Predictions,
    path: str | Path,
    *,
    run: RunFacts | None = None,
    image: ImageOf | None = None,
    overlays: Overlays | None = None,
) -> Path:
    """Write the page of `render_report` to a file, in one step, and return its path."""
    page = render_report(predictions, run=run or RunFacts(), image=image, overlays=overlays)
    return write_page(path, page)


def write_page(path: str | Path, page: str) -> Path:
    """Write a page in one step; undecodable bytes of file names become question marks."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page.encode("utf-8", errors="replace"))
    return path


def render_report(
    predictions: Predictions,
    *,
    run: RunFacts,
    image: ImageOf | None = None,
    overlays: Overlays | None = None,
) -> str:
    """The page as HTML; equal arguments give equal text. Raises ValueError without predictions.

    `image` gives a sample's image uint8 (H, W, 1 or 3) by its index, `overlays` those of some samples with a class
    activation map laid over each, RGB; either may be left out. If `overlays` raises NoMapError, its message takes the
    maps' place. Samples with NaN or infinite logits are counted and left out of calibration and precision-recall.
    """
    if not len(predictions):
        raise ValueError("a report needs at least one prediction")
    finite = predictions.only_finite()
    divisor = temperature(finite)
    large, no_map = _large_cards(predictions, image=image, overlays=overlays)
    curves = precision_recall_curves(finite)
    average_precision = {curve.name: curve.average_precision for curve in curves}
    confusion = predictions.confusion_matrix
    error = calibration_error(finite)
    return rendered(
        "report.html",
        run=run,
        predictions=predictions,
        many=_MANY,
        accuracy=accuracy(predictions),
        intervals=bootstrap_intervals(predictions),
        resamples=number_of_resamples(len(predictions)),
        wrong=int((~predictions.correct).sum()),
        not_finite=len(predictions) - len(finite),
        noise=noise_difference(int(predictions.correct.sum()), len(predictions)),
        cross_validation=_cross_validation(run.cross_validation) if run.cross_validation else None,
        search=embedded_figure(search_figure(run.search)) if run.search else None,
        curves={
            kind: embedded_figure(learning_curves_figure(run.history, [kind]))
            for kind in (("loss", "accuracy") if run.history else ())
        },
        confusion=embedded_figure(confusion_matrix_figure(confusion, predictions.class_names, title="Test")),
        rows=[
            # Wilson's interval of the recall, and the average precision; neither for a class without samples.
            (row, wilson_interval(int(hits), row.labeled) if row.labeled else None, average_precision.get(row.name))
            for row, hits in zip(class_table(predictions), np.diagonal(confusion), strict=True)
        ],
        calibration_error=error,
        reliability=embedded_figure(reliability_figure(reliability(finite), error=error)),
        temperature=divisor,
        error_then=calibration_error(with_temperature(finite, divisor)),
        precision_recall=embedded_figure(precision_recall_figure(curves)),
        pairs=most_confused(predictions),
        mistakes=[card for card in large if not card.correct],
        unsure=[card for card in large if card.correct],
        has_maps=overlays is not None and no_map is None,
        no_map=no_map,
        cards=[
            sample_card(predictions, k, image=embedded_image(image(k), side=96) if image else None)
            for k in shown_samples(predictions, limit=_SAMPLES)
        ],
    )


def _cross_validation(found: CrossValidation) -> str:
    """The section of the page as markup."""
    predictions, errors = found.predictions, label_errors(found.predictions)
    cards = [
        sample_card(predictions, k, image=embedded_image(found.image(k), side=160) if found.image else None)
        for k in errors[:_MISTAKES].tolist()
    ]
    return Markup(
        rendered(
            "folds.html",
            folds=found.folds,
            means=found.means,
            best_fold=found.best_fold,
            predictions=predictions,
            pooled=accuracy(predictions),
            errors=cards,
            number=len(errors),
        )
    )


def _large_cards(
    predictions: Predictions, *, image: ImageOf | None, overlays: Overlays | None
) -> tuple[list[Card], str | None]:
    chosen = worst_mistakes(predictions)[:_MISTAKES]
    chosen += least_confident(predictions, limit=max(0, _FEW - len(chosen)))
    laid: Sequence[NDArray[np.uint8] | None] = [None] * len(chosen)
    no_map = None
    if overlays is not None:
        try:
            laid = overlays(chosen)
        except NoMapError as error:
            no_map = str(error)
    cards = [
        sample_card(
            predictions,
            index,
            image=embedded_image(image(index), side=160) if image else None,
            overlay=None if over is None else embedded_image(over, side=160),
        )
        for index, over in zip(chosen, laid, strict=True)
    ]
    return cards, no_map
