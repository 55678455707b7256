"""Maps as images: laid over an image, in a grid, and mapped back onto the original image."""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
Box = tuple[float, float, float, float]

_STRIP = 64  # rows of an image overlaid at a time


def overlay(image: Pixels, heat: ArrayLike, *, strength: float = 0.7, colors: str = "turbo") -> Pixels:
    """Lay a heat map (h, w) in [0, 1] over an image uint8 (h, w), (h, w, 1) or (h, w, 3); gives RGB.

    The opacity of the color is `strength` times the map, so the image shows unchanged where the map is 0.
    `colors` is a colormap of matplotlib.
    """
    values = np.clip(np.asarray(heat, dtype=np.float32), 0, 1)
    gray_or_rgb = image if image.ndim == 3 else image[..., None]
    rgb = np.broadcast_to(gray_or_rgb, (*gray_or_rgb.shape[:2], 3)).astype(np.float32)
    opacity = strength * values[..., None]
    mixed = rgb * (1 - opacity) + _colored(values, colors).astype(np.float32) * opacity
    laid: Pixels = np.rint(mixed).astype(np.uint8)
    return laid


def feature_grid(
    maps: ArrayLike, *, columns: int | None = None, most: int = 64, gap: int = 1, colors: str = "viridis"
) -> Pixels:
    """Put the first `most` maps of one image (C, h, w) side by side as RGB, with `gap` white pixels between them.

    Each map is stretched to its own range (a constant one is dark), since the maps of a layer differ by orders of
    magnitude. By default the grid is about square.
    """
    values = np.asarray(maps, dtype=np.float32)[:most]
    count, height, width = values.shape
    columns = min(count, columns or math.ceil(math.sqrt(count)))
    rows = math.ceil(count / columns)
    lowest, highest = values.min((1, 2), keepdims=True), values.max((1, 2), keepdims=True)
    stretched = np.asarray((values - lowest) / np.where(highest > lowest, highest - lowest, 1), dtype=np.float32)
    grid = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, dtype=np.uint8)
    for number, tile in enumerate(_colored(stretched, colors)):
        top, left = (number // columns) * (height + gap), (number % columns) * (width + gap)
        grid[top : top + height, left : left + width] = tile
    return grid


def onto_original(
    heat: ArrayLike, *, size: tuple[int, int], image_box: Box | None = None, map_box: Box | None = None
) -> NDArray[np.float32]:
    """Map a heat map (H, W) of what the network saw back onto the original image: float32 of `size` (h, w).

    `map_box` of the map shows `image_box` of the image, both (left, upper, right, lower) in pixels and by default
    everything: for a center crop give `image_box`, for a padded image `map_box`, for a squashed one neither. What the
    network did not see is 0. Bilinear between the pixels' centers.
    """
    seen = Image.fromarray(np.asarray(heat, dtype=np.float32))
    # A pixel counts as seen where its center was.
    left, upper, right, lower = (math.ceil(edge - 0.5) for edge in image_box or (0, 0, size[1], size[0]))
    seen = seen.crop(map_box) if map_box else seen
    original = Image.new("F", size[::-1])
    original.paste(seen.resize((right - left, lower - upper), Image.Resampling.BILINEAR), (left, upper))
    return np.array(original)


def overlay_on_original(image: Pixels, heat: ArrayLike, image_box: Box, map_box: Box) -> Pixels:
    """Lay a heat map (H, W) of what the network saw over the original image uint8 (h, w, 3 or 1); gives RGB.

    The boxes are those of `Resize.boxes` for the image's size; the map has the network's size.
    """
    size = image.shape[0], image.shape[1]
    heat = onto_original(heat, size=size, image_box=image_box, map_box=map_box)
    laid = np.empty((*size, 3), dtype=np.uint8)
    # In strips: the colors of an image of 24 megapixels would take more than a gigabyte.
    for top in range(0, size[0], _STRIP):
        rows = slice(top, top + _STRIP)
        laid[rows] = overlay(image[rows], heat[rows])
    return laid


def _colored(values: NDArray[np.float32], colors: str) -> Pixels:
    from matplotlib import colormaps  # 0.3 s, needed for drawing only

    colored: Any = colormaps[colors](values, bytes=True)
    rgb: Pixels = colored[..., :3]
    return rgb
