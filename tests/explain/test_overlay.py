"""Overlays, grids and the way back onto the original image, against matplotlib, Pillow and arithmetic."""

import tracemalloc

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image

from litlens.data.preprocessing import Resize, ResizeMode
from litlens.explain.overlay import feature_grid, onto_original, overlay, overlay_on_original


def test_overlay_mixes_by_the_heat() -> None:
    image = np.full((1, 3, 3), 100, dtype=np.uint8)
    laid = overlay(image, np.array([[0.0, 0.5, 1.0]]), strength=0.8)
    half, full = (np.array(colormaps["turbo"](heat)[:3]) * 255 for heat in (0.5, 1.0))
    assert laid.dtype == np.uint8
    assert laid[0, 0].tolist() == [100, 100, 100]
    np.testing.assert_allclose(laid[0, 1], 0.6 * 100 + 0.4 * half, atol=1)
    np.testing.assert_allclose(laid[0, 2], 0.2 * 100 + 0.8 * full, atol=1)
    assert (image == 100).all()


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3)])
def test_overlay_takes_gray_and_color_and_tensors(shape: tuple[int, ...]) -> None:
    image = np.full(shape, 7, dtype=np.uint8)
    assert (overlay(image, torch.zeros(4, 5)) == np.full((4, 5, 3), 7)).all()


def test_grid_places_each_map_stretched() -> None:
    maps = np.stack([np.array([[0.0, 1.0], [2.0, 4.0]]) * 10.0**k for k in range(-2, 3)] + [np.ones((2, 2))])
    grid = feature_grid(maps, columns=4, gap=1)
    viridis = colormaps["viridis"]
    tile = viridis(np.array([[0, 0.25], [0.5, 1]]), bytes=True)[..., :3]
    assert grid.shape == (5, 11, 3)
    assert (grid[:2, :2] == tile).all()
    assert (grid[:2, 3:5] == tile).all()
    assert (grid[3:, :2] == tile).all()
    assert (grid[3:, 3:5] == viridis(0, bytes=True)[:3]).all()  # the constant one
    assert (grid[2] == 255).all()
    assert (grid[:, 2] == 255).all()
    assert (grid[3:, 6:] == 255).all()  # where no map is left


def test_grid_is_about_square_and_shows_the_first() -> None:
    assert feature_grid(torch.rand(100, 3, 3), most=64, gap=0).shape == (24, 24, 3)
    assert feature_grid(torch.rand(1, 3, 3)).shape == (3, 3, 3)


def _bilinear(heat: np.ndarray, height: int, width: int) -> np.ndarray:
    return torch.nn.functional.interpolate(
        torch.from_numpy(heat)[None, None], size=(height, width), mode="bilinear", align_corners=False
    )[0, 0].numpy()


HEAT = np.random.default_rng(0).random((7, 9), dtype=np.float32)


def test_a_squashed_image() -> None:
    np.testing.assert_allclose(onto_original(HEAT, size=(30, 50)), _bilinear(HEAT, 30, 50), atol=1e-6)


def test_a_centre_crop() -> None:
    photo = onto_original(HEAT, size=(40, 60), image_box=(15, 5, 45, 35))
    np.testing.assert_allclose(photo[5:35, 15:45], _bilinear(HEAT, 30, 30), atol=1e-6)
    photo[5:35, 15:45] = 0
    assert not photo.any()


def test_a_padded_image() -> None:
    photo = onto_original(HEAT, size=(20, 60), map_box=(0, 2, 9, 5))
    np.testing.assert_allclose(photo, _bilinear(HEAT[2:5], 20, 60), atol=1e-6)


def test_a_crop_between_pixels_covers_the_pixels_whose_centres_it_covers() -> None:
    photo = onto_original(np.ones((4, 4)), size=(5, 5), image_box=(0.4, 0.6, 4.4, 4.6))
    expected = np.zeros((5, 5))
    expected[1:5, 0:4] = 1
    assert (photo == expected).all()


def test_there_and_back_by_pillow() -> None:
    """A spot of an image, cropped and made small by Pillow, comes back to where it was."""
    photo = np.zeros((300, 400), dtype=np.float32)
    photo[120:150, 210:250] = 1
    box = (50.0, 0.0, 350.0, 300.0)
    small = Image.fromarray(photo).resize((60, 60), Image.Resampling.BICUBIC, box=box)
    back = onto_original(np.asarray(small), size=(300, 400), image_box=box)
    rows, columns = np.nonzero(back > 0.5)
    assert abs(rows.mean() - 134.5) < 1
    assert abs(columns.mean() - 229.5) < 1
    assert back.sum() == pytest.approx(photo.sum(), rel=0.02)


@pytest.mark.parametrize("resize_mode", ["crop", "squash", "pad"])
@pytest.mark.parametrize("size", [(301, 403), (403, 301), (97, 640), (224, 224), (61, 60)])
def test_a_spot_comes_back_from_the_resize_itself(resize_mode: ResizeMode, size: tuple[int, int]) -> None:
    """A bright spot resized by `Resize` and used as the map is mapped back onto the spot."""
    height, width = size
    resize = Resize((75, 91), resize_mode)
    photo = np.zeros((height, width, 1), dtype=np.uint8)
    middle = (round(height * 0.47), round(width * 0.52))  # off the center, but within every crop
    side = min(size) // 6
    photo[middle[0] : middle[0] + side, middle[1] : middle[1] + side] = 255
    back = onto_original(
        resize(photo)[..., 0] / 255.0,
        size=size,
        **dict(zip(("image_box", "map_box"), resize.boxes(size), strict=True)),
    )
    rows, columns = (back.sum(axis) @ np.arange(length) / back.sum() for axis, length in ((1, height), (0, width)))
    pixel = max(size) / 75  # of the map, seen on the image
    assert abs(rows - (middle[0] + (side - 1) / 2)) < 0.2 * pixel
    assert abs(columns - (middle[1] + (side - 1) / 2)) < 0.2 * pixel
    assert back.sum() == pytest.approx(side * side, rel=0.1)


def test_what_the_network_did_not_see_is_unchanged_in_the_overlay() -> None:
    resize = Resize((10, 10))
    photo = np.random.default_rng(0).integers(256, size=(20, 50, 1), dtype=np.uint8)
    laid = overlay_on_original(photo, torch.ones(10, 10), *resize.boxes((20, 50)))
    assert (laid.dtype, laid.shape) == (np.uint8, (20, 50, 3))
    assert (laid[:, :15] == photo[:, :15]).all()
    assert (laid[:, 35:] == photo[:, 35:]).all()
    assert (laid[:, 15:35] == overlay(photo[:, 15:35], np.ones((20, 20)))).all()


@pytest.mark.parametrize("resize_mode", ["crop", "squash", "pad"])
def test_the_overlay_of_a_large_photo_needs_little_memory(resize_mode: ResizeMode) -> None:
    resize = Resize((75, 91), resize_mode)
    generator = np.random.default_rng(0)
    photo = generator.integers(256, size=(1000, 1501, 3), dtype=np.uint8)
    heat = generator.random((75, 91), dtype=np.float32)
    image_box, map_box = resize.boxes((1000, 1501))
    overlay(photo[:1], np.zeros((1, 1501)))  # matplotlib's colors are loaded once
    tracemalloc.start()
    laid = overlay_on_original(photo, heat, image_box, map_box)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    whole = overlay(photo, onto_original(heat, size=(1000, 1501), image_box=image_box, map_box=map_box))
    assert np.array_equal(laid, whole)
    assert peak < 4 * photo.nbytes
