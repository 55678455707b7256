"""Robustness: the accuracy on images that are shifted, rotated, blurred or faded, by the strength of each distortion.

Distortions are applied to uint8 images of the network's size, before normalization. Directions and noise follow from
the seed, so every network gets the same distorted images.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import nn

from litlens.data.preprocessing import Pixels, Preprocessing
from litlens.evaluation.scores import Interval, wilson_interval
from litlens.evaluation.style import PALETTE, house_style, new_figure, plain_axes, shortened
from litlens.explain.preserve_state import at_home, preserve_state

_LIMIT, _FEWEST = 2000, 250  # images
_PIXELS = _LIMIT * 64 * 64  # of all images, where that leaves more than the fewest
_BATCH_PIXELS = 2**20  # at 224×224, 20 images: 0.3 GB for each of VGG16's first layers


@dataclass(frozen=True)
class Distortion:
    """A distortion of images, and its strengths in `unit`s; 0 changes nothing."""

    unit: str
    strengths: tuple[float, ...]
    # (images, strength, -1 or 1 for each, rng) → images
    apply: Callable[[Pixels, float, NDArray[np.int64], np.random.Generator], Pixels]


@dataclass(frozen=True)
class DistortedAccuracy:
    """The accuracy, with Wilson's 95 % interval, on images distorted by one strength."""

    distortion: str
    strength: float
    accuracy: Interval


def distort(pixels: Pixels, distortion: str, strength: float, *, seed: int = 0) -> Pixels:
    """Distort images uint8 (B, H, W, C) by a strength of `DISTORTIONS[distortion]`, in its unit.

    The direction in which an image is moved or rotated, and its noise, are the same at every strength. Beyond the
    border, its pixels are repeated: black would add edges, and would itself be a distortion on a white background.
    """
    if strength == 0:
        return pixels
    ways, rng = (np.random.default_rng([seed, purpose]) for purpose in (0, 1))
    signs = ways.integers(2, size=(len(pixels), 2)) * 2 - 1
    return DISTORTIONS[distortion].apply(pixels, strength, signs, rng)


def robustness(
    network: nn.Module, preprocessing: Preprocessing, pixels: Pixels, labels: NDArray[np.int64], *, seed: int = 0
) -> Iterator[DistortedAccuracy]:
    """The accuracy on images uint8 (B, H, W, C) and labels (B,) at every strength of every distortion.

    An iterator of `number_of_points()` results, so that the caller can show the progress. The network is unchanged
    and runs on its own device, in its own precision.
    """
    plain = _accuracy(network, preprocessing, pixels, labels)
    for name, distortion in DISTORTIONS.items():
        for strength in distortion.strengths:
            accuracy = plain
            if strength:
                accuracy = _accuracy(network, preprocessing, distort(pixels, name, strength, seed=seed), labels)
            yield DistortedAccuracy(name, strength, accuracy)


def number_of_points() -> int:
    """The number of strengths of all distortions."""
    return sum(len(distortion.strengths) for distortion in DISTORTIONS.values())


def chosen_images(size: int, image_size: tuple[int, int], *, seed: int = 0) -> NDArray[np.int64]:
    """Indices of the split's images to distort: at most 2,000, drawn at random, in order.

    Fewer of images above 64×64, in proportion, but at least 250: the network runs on each 32 times.
    """
    limit = min(_LIMIT, max(_FEWEST, _PIXELS // math.prod(image_size)))
    return np.sort(np.random.default_rng(seed).permutation(size)[:limit])


@house_style
def robustness_figure(runs: Mapping[str, Sequence[DistortedAccuracy]]) -> Figure:
    """A panel for each distortion: a line for each run, with its interval as a band."""
    figure = new_figure(8.4, 5.2)
    panels = figure.subplots(2, math.ceil(len(DISTORTIONS) / 2), sharey=True)
    for axes, (name, distortion) in zip(panels.flat, DISTORTIONS.items(), strict=False):
        plain_axes(axes)
        for number, (run, points) in enumerate(runs.items()):
            own = [point for point in points if point.distortion == name]
            strengths = [point.strength for point in own]
            low, value, high = (
                [100 * getattr(point.accuracy, side) for point in own] for side in ("low", "value", "high")
            )
            color = PALETTE[number % len(PALETTE)]
            axes.fill_between(strengths, low, high, color=color, alpha=0.18, linewidth=0)
            axes.plot(strengths, value, "o-", color=color, linewidth=1.6, markersize=3.2, label=shortened(run, 28))
        axes.set_title(name.capitalize())
        axes.set_xlabel(distortion.unit)
        axes.set_xticks(distortion.strengths)
    panels[0, 0].set_ylim(0, 103)
    for axes in panels[:, 0]:
        axes.set_ylabel("accuracy, %")
    handles, names = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 3), frameon=False)
    return figure


def _accuracy(network: nn.Module, preprocessing: Preprocessing, pixels: Pixels, labels: NDArray[np.int64]) -> Interval:
    hits, size = 0, max(1, _BATCH_PIXELS // math.prod(preprocessing.resize.size))
    with preserve_state(network), torch.no_grad():
        for start in range(0, len(pixels), size):
            images = at_home(preprocessing.normalize(pixels[start : start + size]), network)
            predicted = network(images).argmax(1).cpu().numpy()
            hits += int((predicted == labels[start : start + size]).sum())
    return wilson_interval(hits, len(pixels))


def _shifted(pixels: Pixels, percent: float, signs: NDArray[np.int64], _rng: object) -> Pixels:
    """By whole pixels along one axis, so that nothing is blurred."""
    height, width = pixels.shape[1:3]
    matrices = []
    for sign, along_rows in zip(signs[:, 0], signs[:, 1] > 0, strict=True):
        matrix = np.eye(2, 3)
        matrix[int(along_rows), 2] = sign * round((height if along_rows else width) * percent / 100)
        matrices.append(matrix)
    return _warped(pixels, matrices)


def _rotated(pixels: Pixels, degrees: float, signs: NDArray[np.int64], _rng: object) -> Pixels:
    """Counterclockwise or clockwise around the center."""
    return _warped(pixels, [_similarity(pixels, degrees * sign, 1.0) for sign in signs[:, 0]])


def _scaled(pixels: Pixels, percent: float, _signs: object, _rng: object) -> Pixels:
    return _warped(pixels, [_similarity(pixels, 0.0, 1 + percent / 100)] * len(pixels))


def _similarity(pixels: Pixels, degrees: float, scale: float) -> NDArray[np.float64]:
    import cv2

    center = (pixels.shape[2] - 1) / 2, (pixels.shape[1] - 1) / 2
    return np.asarray(cv2.getRotationMatrix2D(center, float(degrees), scale))


def _warped(pixels: Pixels, matrices: Sequence[NDArray[np.float64]]) -> Pixels:
    import cv2

    size = pixels.shape[2], pixels.shape[1]
    moved = [
        cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for image, matrix in zip(pixels, matrices, strict=True)
    ]
    return np.array(moved, dtype=np.uint8).reshape(pixels.shape)


def _blurred(pixels: Pixels, percent: float, _signs: object, _rng: object) -> Pixels:
    import cv2

    sigma = min(pixels.shape[1:3]) * percent / 100
    blurred = [cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE) for image in pixels]
    return np.stack(blurred).reshape(pixels.shape)


def _noisy(pixels: Pixels, percent: float, _signs: object, rng: np.random.Generator) -> Pixels:
    noisy = np.empty_like(pixels)
    for image, result in zip(pixels, noisy, strict=True):  # one at a time: float32 takes four times the memory
        noise = rng.standard_normal(image.shape, dtype=np.float32)
        result[...] = np.rint(image + noise * np.float32(255 * percent / 100)).clip(0, 255)
    return noisy


def _faded(pixels: Pixels, percent: float, _signs: object, _rng: object) -> Pixels:
    """Every pixel nearer to the mean of its image."""
    mean = pixels.mean((1, 2, 3), keepdims=True, dtype=np.float64)
    faded: Pixels = np.rint(mean + (pixels - mean) * (1 - percent / 100)).astype(np.uint8)
    return faded


DISTORTIONS: dict[str, Distortion] = {
    "shift": Distortion("% of the side", (0, 5, 10, 15, 20, 25), _shifted),
    "rotation": Distortion("degrees", (0, 10, 20, 30, 45, 60), _rotated),
    "scale": Distortion("% larger", (-60, -40, -20, 0, 20, 40, 60), _scaled),
    "blur": Distortion("σ, % of the side", (0, 2, 4, 6, 8, 10), _blurred),
    "noise": Distortion("σ, % of white", (0, 10, 20, 30, 40, 60), _noisy),
    "contrast": Distortion("% less", (0, 20, 40, 60, 80, 90), _faded),
}
