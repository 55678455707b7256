"""Samples as images: predictions, mistakes, class activation maps and feature maps.

Images are pasted pixel by pixel and only text is drawn by matplotlib: one axes per image would take a second. A sheet
is twice as wide as a card of TensorBoard, which shows every second pixel of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import FigureImage
from matplotlib.transforms import IdentityTransform
from numpy.typing import NDArray
from PIL import Image

from litlens.evaluation.style import GRAY, GREEN, INK, ORANGE, house_style, percent, shortened
from litlens.explain.overlay import feature_grid, overlay

Pixels = NDArray[np.uint8]

_DPI, _MARGIN, _TITLE = 220, 24, 104  # the last two in pixels
_MOST_PROBABLE = 3  # classes named for each mistake
_GRID = 344  # the longer side of a layer's maps
_PALE = {GREEN: "#BFE6D9", ORANGE: "#F6D0B8", GRAY: "#E6E6E6"}


@house_style
def prediction_grid_figure(
    images: Pixels,
    labels: Sequence[int] | NDArray[np.int64],
    probabilities: NDArray[np.floating],
    class_names: Sequence[str],
    *,
    title: str = "Predictions",
    columns: int = 3,
) -> Figure:
    """Images uint8 (N, H, W, 1 or 3), labels (N,), probabilities (N, K): the predicted class under each image.

    Correct ones have a green frame, misclassified ones a red one and a second line with the label.
    """
    tiles = [_scaled(image, 208) for image in images]
    predicted = probabilities.argmax(axis=1)
    right = int((predicted == np.asarray(labels)).sum())
    sheet = _Sheet(len(tiles), columns, cell=(max(236, tiles[0].shape[1] + 20), tiles[0].shape[0] + 112))
    for number, (tile, label, guess) in enumerate(zip(tiles, labels, predicted, strict=True)):
        x, y = sheet.corner(number)
        color = GREEN if guess == label else ORANGE
        height, width = tile.shape[:2]
        sheet.fill(x, y, width + 16, height + 16, color)
        sheet.paste(x + 8, y + 8, tile)
        sheet.write(x, y + height + 26, shortened(class_names[guess], 7), color=color, weight="bold")
        sheet.write(x + width + 14, y + height + 26, _percent(probabilities[number, guess]), ha="right")
        if guess != label:
            sheet.write(x, y + height + 58, f"label {shortened(class_names[label], 11)}")
    return sheet.figure(f"{title}: {right} of {len(tiles)} correct")


@house_style
def wrong_samples_figure(
    images: Pixels,
    names: Sequence[str],
    labels: Sequence[int] | NDArray[np.int64],
    probabilities: NDArray[np.floating],
    class_names: Sequence[str],
    *,
    title: str = "Misclassified, highest loss first",
    columns: int = 3,
) -> Figure:
    """Images uint8 (N, H, W, 1 or 3) with name, label and the three most probable classes of probabilities (N, K).

    The bar of each class shows its probability: green for the label, red for the class predicted instead.
    """
    tiles, lines = [_scaled(image, 224) for image in images], min(_MOST_PROBABLE, probabilities.shape[1])
    sheet = _Sheet(len(tiles), columns, cell=(252, tiles[0].shape[0] + 108 + 40 * lines))
    for number, (tile, label) in enumerate(zip(tiles, labels, strict=True)):
        x, y = sheet.corner(number)
        sheet.paste(x, y, tile)
        y += tile.shape[0] + 8
        sheet.write(x, y, shortened(names[number], 16), color="#6E6E6E", size=7)
        sheet.write(x, y + 30, f"label {shortened(class_names[label], 11)}", weight="bold")
        y += 72
        own = probabilities[number]
        for place, guess in enumerate(np.argsort(-own, kind="stable")[:_MOST_PROBABLE]):
            color = GREEN if guess == label else GRAY if place else ORANGE
            sheet.fill(x, y - 2, max(4, round(232 * float(np.nan_to_num(own[guess])))), 34, _PALE[color])
            sheet.write(x + 6, y + 2, shortened(class_names[guess], 9))
            sheet.write(x + 228, y + 2, _percent(own[guess]), ha="right")
            y += 38
    return sheet.figure(title)


@house_style
def cam_figure(
    images: Pixels,
    maps: NDArray[np.floating],
    labels: Sequence[int] | NDArray[np.int64],
    predicted: Sequence[int] | NDArray[np.int64],
    class_names: Sequence[str],
    *,
    title: str = "Grad-CAM",
    columns: int = 2,
) -> Figure:
    """Images uint8 (N, H, W, 1 or 3), each next to its overlay with the map (N, H, W) of the predicted class."""
    tiles = [_scaled(image, 168) for image in images]
    height, width = tiles[0].shape[:2]
    sheet = _Sheet(len(tiles), columns, cell=(2 * width + 40, height + 76))
    for number, (tile, heat, label, guess) in enumerate(zip(tiles, maps, labels, predicted, strict=True)):
        x, y = sheet.corner(number)
        # Enlarged smoothly, as the map itself has been, so that its low resolution shows.
        fine = Image.fromarray(np.nan_to_num(np.asarray(heat, dtype=np.float32)))
        enlarged = np.asarray(fine.resize((width, height), Image.Resampling.BILINEAR))
        sheet.paste(x, y, tile)
        sheet.paste(x + width + 6, y, overlay(tile, enlarged))
        color, words = GREEN, f"{shortened(class_names[guess], 24)}"
        if guess != label:
            color, words = ORANGE, f"{shortened(class_names[guess], 9)}, label {shortened(class_names[label], 9)}"
        sheet.write(x, y + height + 12, words, color=color, weight="bold")
    return sheet.figure(title)


@house_style
def feature_maps_figure(
    image: Pixels, maps: Mapping[str, NDArray[np.floating]], *, title: str = "Feature maps", most: int = 64
) -> Figure:
    """An image uint8 (H, W, 1 or 3) and the maps (C, h, w) of layers, by name, each as a grid; two in a row."""
    parts = [("image", _scaled(image, _GRID), f"{image.shape[0]}×{image.shape[1]}")]
    for name, values in maps.items():
        shown = f"{most}/{len(values)}" if len(values) > most else f"{len(values)}"
        parts.append((name, _grid(values[:most], _GRID), f"{shown} of {values.shape[1]}×{values.shape[2]}"))
    height, width = (max(tile.shape[side] for _, tile, _ in parts) for side in (0, 1))
    sheet = _Sheet(len(parts), 2, cell=(max(width, _GRID) + 28, height + 60))
    for number, (name, tile, size) in enumerate(parts):
        x, y = sheet.corner(number)
        sheet.write(x, y, shortened(name, 11), weight="bold")
        sheet.write(x + _GRID, y, size, ha="right")
        sheet.paste(x, y + 34, tile)
    return sheet.figure(title)


class _Sheet:
    """A white canvas with a title and a grid of cells: positions and sizes in pixels, y downwards."""

    def __init__(self, cells: int, columns: int, *, cell: tuple[int, int]) -> None:
        self._columns, self._cell = columns, cell
        columns, rows = max(1, min(cells, columns)), max(1, -(-cells // columns))
        width, height = max(columns * cell[0], 660), rows * cell[1]
        self._pixels = np.full((height + _TITLE + _MARGIN // 2, width + 2 * _MARGIN, 3), 255, dtype=np.uint8)
        self._words: list[tuple[int, int, str, dict[str, object]]] = []

    def corner(self, number: int) -> tuple[int, int]:
        """The upper left corner of a cell."""
        row, column = divmod(number, self._columns)
        return _MARGIN + column * self._cell[0], _TITLE + row * self._cell[1]

    def paste(self, x: int, y: int, tile: Pixels) -> None:
        self._pixels[y : y + tile.shape[0], x : x + tile.shape[1]] = tile

    def fill(self, x: int, y: int, width: int, height: int, color: str) -> None:
        self._pixels[y : y + height, x : x + width] = np.rint(255 * np.array(to_rgb(color)))

    def write(self, x: int, y: int, words: str, **style: object) -> None:
        self._words.append((x, y, words, {"size": 8, "va": "top", "color": INK, **style}))

    def figure(self, title: str) -> Figure:
        height, width = self._pixels.shape[:2]
        # Half a pixel more, since the canvas rounds down.
        figure = Figure(figsize=((width + 0.5) / _DPI, (height + 0.5) / _DPI), dpi=_DPI, facecolor="white")
        FigureCanvasAgg(figure)
        figure.images.append(_Background(figure, self._pixels))
        self.write(_MARGIN, 18, title.replace(": ", "\n", 1), size=9.5, linespacing=1.35)
        for x, y, words, style in self._words:
            figure.text(x / width, 1 - y / height, words, **style)  # type: ignore[arg-type]
        return figure


class _Background(FigureImage):
    """An image as large as its figure: matplotlib would resample it, which takes as long as all the text."""

    def __init__(self, figure: Figure, pixels: Pixels) -> None:
        super().__init__(figure, origin="upper")
        self.set_data(pixels)

    def make_image(self, renderer: Any, magnification: float = 1.0, unsampled: bool = False) -> Any:
        """The pixels from the lowest row up, opaque, and their place on the canvas."""
        rgb = np.asarray(self.get_array())[::-1]
        opaque = np.full((*rgb.shape[:2], 4), 255, dtype=np.uint8)
        opaque[..., :3] = rgb
        return opaque, 0, 0, IdentityTransform()


def _scaled(image: Pixels, longest: int) -> Pixels:
    """An image (h, w, 1 or 3) as RGB with a longer side of about `longest`; a small one by repeating its pixels."""
    height, width = image.shape[:2]
    rgb = np.broadcast_to(image, (height, width, 3))
    times = longest // max(height, width)
    if times >= 2:
        return rgb.repeat(times, axis=0).repeat(times, axis=1)
    scale = longest / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(np.ascontiguousarray(rgb)).resize(size, Image.Resampling.LANCZOS))


def _grid(values: NDArray[np.floating], longest: int) -> Pixels:
    times = max(1, longest // (int(np.ceil(np.sqrt(len(values)))) * max(values.shape[1:])))
    grid = feature_grid(np.nan_to_num(values).repeat(times, axis=1).repeat(times, axis=2), most=len(values), gap=2)
    return _scaled(grid, longest) if max(grid.shape) > 1.2 * longest else grid


def _percent(probability: float) -> str:
    return "100 %" if probability >= 0.9995 else percent(probability, 1)
