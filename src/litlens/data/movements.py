"""Movements of an image in the plane, drawn at random and joined to the one matrix that it is warped by."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The first two rows of the matrix that takes a point (x, y, 1), seen from the image's center, to its new
# place. In plain numbers: numpy's overhead on 3×3 matrices would cost more than the warp of a small image.
_Matrix = tuple[float, float, float, float, float, float]
# (options, rng, height, width) → matrix
Movement = Callable[[dict[str, Any], np.random.Generator, int, int], _Matrix]


def moving_matrix(
    steps: list[tuple[str, dict[str, Any]]], rng: np.random.Generator, *, height: int, width: int
) -> NDArray[np.float64]:
    """Draw each step (name, options) and join them, the first done first: (2, 3) in pixels, for OpenCV."""
    a, b, x, c, d, y = 1.0, 0.0, 0.0, 0.0, 1.0, 0.0
    for name, options in steps:
        if options["p"] >= 1 or rng.random() < options["p"]:
            e, f, u, g, h, v = MOVEMENTS[name](options, rng, height, width)
            a, b, c, d = e * a + f * c, e * b + f * d, g * a + h * c, g * b + h * d
            x, y = e * x + f * y + u, g * x + h * y + v
    right, down = (width - 1) / 2, (height - 1) / 2
    return np.array([[a, b, x + right - a * right - b * down], [c, d, y + down - c * right - d * down]])


def _rotation(options: dict[str, Any], rng: np.random.Generator, height: int, width: int) -> _Matrix:
    angle = math.radians(rng.uniform(-options["limit"], options["limit"]))
    cosine, sine = math.cos(angle), math.sin(angle)
    return cosine, sine, 0.0, -sine, cosine, 0.0


def _shift(options: dict[str, Any], rng: np.random.Generator, height: int, width: int) -> _Matrix:
    limit = options["limit"]
    return 1.0, 0.0, rng.uniform(-limit, limit) * width, 0.0, 1.0, rng.uniform(-limit, limit) * height


def _scaling(options: dict[str, Any], rng: np.random.Generator, height: int, width: int) -> _Matrix:
    factor = rng.uniform(*options["range"])
    return factor, 0.0, 0.0, 0.0, factor, 0.0


def _shear(options: dict[str, Any], rng: np.random.Generator, height: int, width: int) -> _Matrix:
    slope = math.tan(math.radians(rng.uniform(-options["limit"], options["limit"])))
    x, y = (slope, 0.0) if rng.random() < 0.5 else (0.0, slope)
    return 1.0, x, 0.0, y, 1.0, 0.0


def _stretch(options: dict[str, Any], rng: np.random.Generator, height: int, width: int) -> _Matrix:
    factor = rng.uniform(*options["range"])
    x, y = (factor, 1.0) if rng.random() < 0.5 else (1.0, factor)
    return x, 0.0, 0.0, 0.0, y, 0.0


MOVEMENTS: dict[str, Movement] = {
    "rotation": _rotation,
    "shift": _shift,
    "scale": _scaling,
    "zoom": _scaling,
    "shear": _shear,
    "stretch": _stretch,
}
