"""Maps as images: laid over an image, in a grid, and mapped back onto the whole photo."""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Pixels = NDArray[np.uint8]
Box = tuple[float, float, float, float]

_STRIP = 64  # rows of a photo that are overlaid at once


def overlay(image: Pixels, heat: ArrayLike, *, strength: float = 0.7, colors: str = "turbo") -> Pixels:
    """Lay a heat map (h, w) in [0, 1] over an image uint8 (h, w), (h, w, 1) or (h, w, 3); gives RGB.

    The hotter, the more of the color (at most `strength`): where the map is 0 the image is as it was.
    `colors` is a color map of matplotlib.
    """
    values = np.clip(np.asarray(heat, dtype=np.float32), 0, 1)
    gray_or_rgb = image if image.ndim == 3 else image[..., None]
    rgb = np.broadcast_to(gray_or_rgb, (*gray_or_rgb.shape[:2], 3)).astype(np.float32)
    share = strength * values[..., None]
    mixed = rgb * (1 - share) + _colored(values, colors).astype(np.float32) * share
    laid: Pixels = np.rint(mixed).astype(np.uint8)
    return laid


def feature_grid(
    maps: ArrayLike, *, columns: int | None = None, most: int = 64, gap: int = 1, colors: str = "viridis"
) -> Pixels:
    """The first `most` maps of one image (C, h, w) side by side as RGB, `gap` white pixels between them.

    Each map is stretched to its own range (a constant one is dark), as maps of one layer differ by orders of
    magnitude. `columns` is by default what makes the grid about square.
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


def onto_photo(
    heat: ArrayLike, *, size: tuple[int, int], photo_box: Box | None = None, map_box: Box | None = None
) -> NDArray[np.float32]:
    """A heat map (H, W) of what the network saw, mapped back onto the whole photo: float32 of `size` (h, w).

    `map_box` of the map shows `photo_box` of the photo, both (left, upper, right, lower) in pixels and by
    default the whole. So for a center crop give `photo_box`, for a padded photo `map_box`, for a squashed one
    neither. What the network did not see is 0. Interpolated linearly between the pixels' centers.
    """
    values = np.asarray(heat, dtype=np.float32)
    map_height, map_width = values.shape
    left, upper, right, lower = photo_box or (0, 0, size[1], size[0])
    map_left, map_upper, map_right, map_lower = map_box or (0, 0, map_width, map_height)
    rows = _Axis(size[0], seen=(upper, lower), shown=(map_upper, map_lower), length=map_height)
    columns = _Axis(size[1], seen=(left, right), shown=(map_left, map_right), length=map_width)
    photo = np.zeros(size, dtype=np.float32)
    photo[rows.inside, columns.inside] = columns.interpolate(rows.interpolate(values, axis=0), axis=1)
    return photo


def overlay_on_photo(photo: Pixels, heat: ArrayLike, photo_box: Box, map_box: Box) -> Pixels:
    """Lay a heat map (H, W) of what the network saw over the whole photo uint8 (h, w, 3 or 1); gives RGB (h, w, 3).

    The boxes are those that `Preprocessing.resize.boxes` gives for the photo's size; the map is at the network's size.
    """
    height, width = photo.shape[:2]
    left, upper, right, lower = photo_box
    laid = np.empty((height, width, 3), dtype=np.uint8)
    # In strips: maps and colors of a whole photo of 24 megapixels would take more than a gigabyte.
    for top in range(0, height, _STRIP):
        strip = photo[top : top + _STRIP]
        seen = (left, upper - top, right, lower - top)
        laid[top : top + _STRIP] = overlay(
            strip, onto_photo(heat, size=strip.shape[:2], photo_box=seen, map_box=map_box)
        )
    return laid


class _Axis:
    """One side of the photo: which pixels were seen, and between which two of the map's each one lies."""

    def __init__(self, pixels: int, *, seen: tuple[float, float], shown: tuple[float, float], length: int) -> None:
        first, last = (min(max(math.ceil(edge - 0.5), 0), pixels) for edge in seen)
        self.inside = slice(first, last)
        centers = np.arange(first, last) + 0.5
        positions = shown[0] + (centers - seen[0]) * (shown[1] - shown[0]) / (seen[1] - seen[0]) - 0.5
        # At the edge of what was shown the last value goes on: the padding beside it is not the photo's.
        positions = np.clip(positions, max(0, shown[0]), min(length, shown[1]) - 1)
        self._before = np.minimum(np.floor(positions).astype(np.int64), length - 1)
        self._after = np.minimum(self._before + 1, length - 1)
        self._share = (positions - self._before).astype(np.float32)

    def interpolate(self, values: NDArray[np.float32], *, axis: int) -> NDArray[np.float32]:
        share = np.expand_dims(self._share, 1 - axis)
        result: NDArray[np.float32] = (
            values.take(self._before, axis) * (1 - share) + values.take(self._after, axis) * share
        )
        return result


def _colored(values: NDArray[np.float32], colors: str) -> Pixels:
    from matplotlib import colormaps  # 0.3 s, and only who draws needs it

    colored: Any = colormaps[colors](values, bytes=True)
    rgb: Pixels = colored[..., :3]
    return rgb
