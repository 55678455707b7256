"""Which samples a page shows, and what stands on the card of each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from litlens.evaluation.measures import highest_losses, sample_losses
from litlens.evaluation.predictions import Predictions

Image = Callable[[int], NDArray[np.uint8]]  # the image (h, w, 1 or 3) of a sample, by its index

_TOP = 3


@dataclass(frozen=True)
class Card:
    """One sample: images as `data:` addresses, its likeliest classes, and where it has one its label and loss."""

    name: str
    image: str
    ranking: list[tuple[str, float]]
    overlay: str | None = None
    label: str | None = None
    loss: float | None = None

    @property
    def predicted(self) -> str:
        """The likeliest class."""
        return self.ranking[0][0]


def sample_card(predictions: Predictions, index: int, *, image: str, overlay: str | None = None) -> Card:
    """The card of one sample of a test."""
    return Card(
        name=predictions.names[index],
        image=image,
        overlay=overlay,
        ranking=ranking(predictions.probabilities[index], predictions.class_names),
        label=predictions.class_names[predictions.labels[index]],
        loss=float(sample_losses(predictions)[index]),
    )


def ranking(probabilities: NDArray[np.floating], class_names: Sequence[str]) -> list[tuple[str, float]]:
    """The three likeliest classes of one sample with their probabilities `(K,)`, ties in the order of the classes."""
    order = np.argsort(-probabilities, kind="stable")[:_TOP]
    return [(class_names[k], float(probabilities[k])) for k in order]


def worst_mistakes(predictions: Predictions, *, limit: int) -> list[int]:
    """The wrongly predicted samples with the highest losses, worst first."""
    order = highest_losses(predictions)
    return [int(index) for index in order[~predictions.correct[order]][:limit]]


def least_sure(predictions: Predictions, *, limit: int) -> list[int]:
    """The rightly predicted samples with the highest losses, the least sure first."""
    order = highest_losses(predictions)
    return [int(index) for index in order[predictions.correct[order]][:limit]]


def shown_samples(predictions: Predictions, *, limit: int) -> list[int]:
    """At most `limit` samples, worst first: half of the room for mistakes, the rest for what is right.

    Of what is right every predicted class gets an equal share, from its least sure sample to its surest.
    """
    if len(predictions) <= limit:
        return [int(index) for index in highest_losses(predictions)]
    chosen = set(worst_mistakes(predictions, limit=limit // 2))
    share = max(1, (limit - len(chosen)) // predictions.num_classes)
    for label in range(predictions.num_classes):
        own = np.flatnonzero(predictions.correct & (predictions.labels == label))
        own = own[np.argsort(predictions.confidence[own], kind="stable")]
        if len(own) and len(chosen) < limit:
            chosen |= set(own[np.linspace(0, len(own) - 1, min(share, len(own)), dtype=int)].tolist())
    losses = sample_losses(predictions)
    return sorted(chosen, key=lambda index: (-losses[index], index))
