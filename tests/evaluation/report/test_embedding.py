"""Images in a page: exact where they are small, smaller where they are large, figures as drawings."""

from base64 import b64decode
from io import BytesIO

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from litlens.evaluation.figures import learning_curves_figure
from litlens.evaluation.report.embedding import embedded_figure, embedded_image


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
