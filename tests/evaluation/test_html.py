"""Cards: which samples are shown, the worst first. Images: exact if small, smaller if large, figures as SVG."""

from base64 import b64decode
from io import BytesIO

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from litlens.evaluation.figures import learning_curves_figure
from litlens.evaluation.html import (
    embedded_figure,
    embedded_image,
    least_confident,
    ranking,
    sample_card,
    shown_samples,
    worst_mistakes,
)


def test_the_ranking_of_three() -> None:
    assert ranking(np.array([0.1, 0.4, 0.1, 0.4]), ["a", "b", "c", "d"]) == [("b", 0.4), ("d", 0.4), ("a", 0.1)]
    assert ranking(np.array([0.3, 0.7]), ["no", "yes"]) == [("yes", 0.7), ("no", 0.3)]


def test_the_worst_mistakes_are_wrong_and_sorted(made_up) -> None:
    some = made_up(200, 3, strength=1.0)
    losses = -np.log(some.probabilities[np.arange(200), some.labels])
    wrong = [k for k in np.argsort(-losses) if some.logits[k].argmax() != some.labels[k]]
    assert worst_mistakes(some)[:7] == wrong[:7]
    assert worst_mistakes(some)[:500] == wrong
    right = [k for k in np.argsort(-losses) if some.predicted[k] == some.labels[k]]
    assert least_confident(some, limit=5) == right[:5]


def test_shown_samples_are_mistakes_and_correct_ones_of_every_class(made_up) -> None:
    some = made_up(5000, 10, strength=2.0)
    shown = shown_samples(some, limit=200)
    assert len(shown) == len(set(shown)) == 200
    right = [k for k in shown if some.correct[k]]
    assert set(worst_mistakes(some)[:100]) == set(shown) - set(right)
    assert np.bincount(some.labels[right], minlength=10).tolist() == [10] * 10
    for label in range(10):
        own = some.confidence[some.correct & (some.labels == label)]
        chosen = [some.confidence[k] for k in right if some.labels[k] == label]
        assert {own.min(), own.max()} <= set(chosen)
    losses = -np.log(some.probabilities[shown, some.labels[shown]])
    assert (np.diff(losses) <= 1e-12).all()


def test_more_classes_than_room(made_up) -> None:
    some = made_up(3000, 62, strength=9.0)
    shown = shown_samples(some, limit=30)
    assert len(shown) == 30
    labels = some.labels[[k for k in shown if some.correct[k]]]
    assert (labels.min(), labels.max()) == (0, 61)


def test_few_samples_are_all_shown(made_up) -> None:
    assert sorted(shown_samples(made_up(60, 2, strength=1.0), limit=60)) == list(range(60))


def test_a_card_has_the_samples_values(made_up) -> None:
    some = made_up(50, 4, strength=1.0)
    card = sample_card(some, 7, image="data:")
    assert (card.name, card.label) == ("test/00007", some.class_names[some.labels[7]])
    assert card.predicted == some.class_names[some.logits[7].argmax()]
    assert card.loss == pytest.approx(-np.log(some.probabilities[7, some.labels[7]]))


def opened(address: str) -> Image.Image:
    kind, _, content = address.partition(";base64,")
    image = Image.open(BytesIO(b64decode(content)))
    assert kind == f"data:image/{image.format.lower()}"
    return image


@pytest.mark.parametrize("channels", [1, 3])
def test_a_small_image_keeps_every_pixel(noise, channels: int) -> None:
    pixels = noise(0, side=28, channels=channels)
    shown = np.asarray(opened(embedded_image(pixels, side=96)))
    assert np.array_equal(shown.reshape(pixels.shape), pixels)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_large_one_fits_and_keeps_its_ratio(noise, channels: int) -> None:
    pixels = noise(0, side=400, channels=channels)[:200]
    image = opened(embedded_image(pixels, side=160))
    assert image.size == (160, 80)
    assert image.format == "JPEG"


def test_a_figure_is_a_drawing_and_one_of_many_lines_pixels() -> None:
    assert embedded_figure(learning_curves_figure([])).startswith("data:image/svg+xml;base64,")
    figure = Figure()
    axes = figure.add_subplot()
    for seed in range(30):
        axes.plot(np.random.default_rng(seed).normal(size=2000))
    image = opened(embedded_figure(figure))
    assert image.format == "PNG"
    assert image.width > 1000
