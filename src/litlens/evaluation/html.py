"""Parts of a page: cards of samples, images and figures as data URLs, templates with autoescape.

A page fetches nothing and runs no script but its own; equal input gives equal text.
"""

import hashlib
import math
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from litlens.evaluation.predictions import Predictions
from litlens.evaluation.scores import Interval, highest_losses, worst_mistakes
from litlens.evaluation.style import percent, pixels, svg

ImageOf = Callable[[int], NDArray[np.uint8]]  # the image (h, w, 1 or 3) of a sample, by its index

TOP = 3  # classes of a ranking


@dataclass(frozen=True)
class Card:
    """One sample: images as data URLs, its most probable classes, and if it has a label, that and the loss."""

    name: str
    image: str | None
    ranking: list[tuple[str, float]]
    overlay: str | None = None
    label: str | None = None
    loss: float | None = None

    @property
    def predicted(self) -> str:
        """The most probable class."""
        return self.ranking[0][0]

    @property
    def correct(self) -> bool:
        """Whether that is the label."""
        return self.predicted == self.label


def sample_card(predictions: Predictions, index: int, *, image: str | None, overlay: str | None = None) -> Card:
    """The card of one labeled sample; if its logits are not finite, with the predicted class only."""
    best = ranking(predictions.subset([index]).probabilities[0], predictions.class_names)
    if not predictions.finite[index]:
        best = [(predictions.class_names[predictions.predicted[index]], math.nan)]
    return Card(
        name=predictions.names[index],
        image=image,
        overlay=overlay,
        ranking=best,
        label=predictions.class_names[predictions.labels[index]],
        loss=float(predictions.losses[index]),
    )


def ranking(probabilities: NDArray[np.floating], class_names: Sequence[str]) -> list[tuple[str, float]]:
    """The three most probable classes of one sample with their probabilities `(K,)`, ties by class number."""
    order = np.argsort(-probabilities, kind="stable")[:TOP]
    return [(class_names[k], float(probabilities[k])) for k in order]


def least_confident(predictions: Predictions, *, limit: int) -> list[int]:
    """The correctly predicted samples with the highest losses, the least confident first."""
    order = highest_losses(predictions)
    return [int(index) for index in order[predictions.correct[order]][:limit]]


def shown_samples(predictions: Predictions, *, limit: int) -> list[int]:
    """At most `limit` samples, highest loss first: at most half of them mistakes, the others correct.

    Every class gets the same number of correct ones, from its least to its most confident sample; of more classes than
    there is room for, some get one.
    """
    order = highest_losses(predictions)
    if len(predictions) <= limit:
        return [int(index) for index in order]
    chosen = set(worst_mistakes(predictions)[: limit // 2])
    classes = min(predictions.num_classes, limit - len(chosen))
    of_class = (limit - len(chosen)) // classes
    for label in np.linspace(0, predictions.num_classes - 1, classes, dtype=int):
        own = np.flatnonzero(predictions.correct & (predictions.labels == label))
        own = own[np.argsort(predictions.confidence[own], kind="stable")]
        if len(own) and len(chosen) < limit:
            chosen |= set(own[np.linspace(0, len(own) - 1, min(of_class, len(own)), dtype=int)].tolist())
    return [int(index) for index in order if index in chosen]


_LARGEST_SVG = 150_000  # characters; a figure of many lines is smaller as pixels
_SMALL = 64  # images up to this side keep every pixel; the page enlarges them


def embedded_figure(figure: Figure) -> str:
    """A figure as SVG, or as PNG if the SVG is large."""
    drawing = svg(figure)
    if len(drawing) <= _LARGEST_SVG:
        return _data_url("svg+xml", drawing.encode())
    figure.set_dpi(180)
    return _encoded(Image.fromarray(pixels(figure)).quantize(256), "PNG", optimize=True)


def embedded_image(pixels: NDArray[np.uint8], *, side: int, quality: int = 78) -> str:
    """An image uint8 (h, w, 1 or 3), at most `side` pixels high and wide: PNG if it is small, otherwise JPEG."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    image.thumbnail((side, side))
    if max(image.size) <= _SMALL:
        return _encoded(image, "PNG", optimize=True)
    return _encoded(image, "JPEG", quality=quality, optimize=True)


def _encoded(image: Image.Image, kind: str, **options: int | bool) -> str:
    file = BytesIO()
    image.save(file, kind, **options)
    return _data_url(kind.lower(), file.getvalue())


def _data_url(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{b64encode(content).decode()}"


_TEMPLATES = Path(__file__).parent / "templates"


def rendered(template: str, **values: object) -> str:
    """A page from one of the templates; `values` are text, never markup."""
    return _environment().get_template(template).render(**values)


def percent_interval(interval: Interval, digits: int = 2) -> str:
    """`97.10 to 98.90 %`."""
    return (
        "–"
        if interval.low != interval.low
        else f"{100 * interval.low:.{digits}f} to {100 * interval.high:.{digits}f} %"
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script, style = ((_TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
    # The browser runs only the script with this digest: a second barrier after the escaping.
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment.globals.update(script=Markup(script), style=Markup(style), script_digest=digest)
    environment.filters.update(percent=percent, percent_interval=percent_interval)
    return environment
