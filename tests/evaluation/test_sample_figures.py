"""Images of samples: the right pixels and words in them, for any size, color and name."""

import numpy as np
import pytest

from litlens.evaluation.sample_figures import (
    cam_figure,
    feature_maps_figure,
    prediction_grid_figure,
    wrong_samples_figure,
)
from litlens.evaluation.style import GREEN, ORANGE, pixels

SHARES = np.array([[0.7, 0.2, 0.1], [0.25, 0.15, 0.6]])
NAMES = ["cat", "dog", "$x^2$ a name without an end"]


def images(number: int, height: int = 8, width: int = 8, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (number, height, width, channels)).astype(np.uint8)


def words(figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def has_color(figure, color: str) -> bool:
    wanted = np.array([int(color[place : place + 2], 16) for place in (1, 3, 5)])
    return bool((pixels(figure) == wanted).all(axis=2).any())


def test_correct_in_green_and_misclassified_in_red_with_the_label() -> None:
    right = prediction_grid_figure(images(2), [0, 2], SHARES, NAMES)
    assert words(right)[:4] == ["cat", "70.0 %", "$x…end", "60.0 %"]
    assert words(right)[-1] == "Predictions\n2 of 2 correct"
    assert has_color(right, GREEN)
    assert not has_color(right, ORANGE)
    wrong = prediction_grid_figure(images(2), [1, 1], SHARES, NAMES)
    assert words(wrong)[:3] == ["cat", "70.0 %", "label dog"]
    assert has_color(wrong, ORANGE)
    assert not has_color(wrong, GREEN)


def test_pixels_of_a_small_image_are_only_repeated() -> None:
    (image,) = images(1)
    drawn = pixels(prediction_grid_figure(image[None], [0], SHARES[:1], NAMES))
    assert np.array_equal(drawn[112 : 112 + 208 : 26, 32 : 32 + 208 : 26], np.broadcast_to(image, (8, 8, 3)))


def test_a_mistake_has_name_label_and_the_three_most_probable_classes() -> None:
    shares = np.array([[0.02, 0.04, 0.9, 0.03, 0.01]])
    figure = wrong_samples_figure(images(1), ["a/b.png"], [3], shares, list("abcde"))
    assert words(figure)[:8] == ["a/b.png", "label d", "c", "90.0 %", "b", "4.0 %", "d", "3.0 %"]
    assert len(words(figure)) == 9


def test_two_classes_have_two_lines() -> None:
    figure = wrong_samples_figure(images(1), ["x"], [1], np.array([[1.0, 0.0]]), ["a", "b"])
    assert words(figure)[2:6] == ["a", "100 %", "b", "0.0 %"]


def test_an_image_next_to_its_overlay() -> None:
    heat = np.zeros((2, 8, 8), dtype=np.float32)
    heat[1] = 1
    drawn = pixels(cam_figure(np.full((2, 8, 8, 1), 100, np.uint8), heat, [0, 1], [0, 0], NAMES))
    left, right = drawn[150, 24 + 50], drawn[150, 24 + 168 + 6 + 50]
    assert left.tolist() == right.tolist() == [100, 100, 100]
    second = 24 + 2 * 168 + 40
    assert drawn[150, second + 50].tolist() == [100, 100, 100]
    assert drawn[150, second + 168 + 6 + 50].tolist() != [100, 100, 100]
    assert words(cam_figure(images(2), heat, [0, 1], [0, 0], NAMES))[:2] == ["cat", "cat, label dog"]


def test_feature_maps_have_layer_number_and_size() -> None:
    maps = {"features.0": np.random.default_rng(0).random((100, 30, 20)), "conv": np.zeros((3, 1, 1))}
    figure = feature_maps_figure(images(1, 200, 300, 3)[0], maps)
    shown = ["image", "200×300", "features.0", "64/100 of 30×20", "conv", "3 of 1×1"]
    assert words(figure) == [*shown, "Feature maps"]
    pixels(figure)


@pytest.mark.parametrize(
    ("height", "width", "channels"), [(1, 1, 1), (28, 28, 1), (64, 40, 3), (224, 224, 3), (9, 400, 3)]
)
def test_any_size_fits_within_the_margin(height: int, width: int, channels: int) -> None:
    shown, heat = images(9, height, width, channels), np.ones((9, height, width), np.float32)
    labels, shares = [0] * 9, np.repeat(SHARES[1:], 9, axis=0)
    for figure in (
        prediction_grid_figure(shown, labels, shares, NAMES),
        wrong_samples_figure(shown, ["a very long folder/and a very long file.jpeg"] * 9, labels, shares, NAMES),
        cam_figure(shown, heat, labels, labels, NAMES),
        feature_maps_figure(shown[0], {"a": heat}),
    ):
        drawn = pixels(figure)
        for edge in (drawn[0], drawn[-1], drawn[:, 0], drawn[:, -1]):
            assert np.all(edge == 255)
