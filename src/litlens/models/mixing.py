"""MixUp and CutMix of a batch as in torchvision.transforms.v2, with the rng of the caller."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def mix_batch(
    images: Tensor, targets: Tensor, *, mixup: float, cutmix: float, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Mix each image (B, C, H, W) and its target (B, K) with those before it in the batch.

    `mixup` and `cutmix` are the alpha of Beta(alpha, alpha), 0 for off; with both, a fair coin decides.
    """
    if cutmix > 0 and (mixup == 0 or rng.random() < 0.5):
        return cut_mix(images, targets, share=rng.beta(cutmix, cutmix), center=rng.random(2))
    return mix_up(images, targets, share=rng.beta(mixup, mixup))


def mix_up(images: Tensor, targets: Tensor, *, share: float) -> tuple[Tensor, Tensor]:
    """Take `share` of the image and of its target, the rest from the one before (Zhang et al. 2018)."""
    return images.roll(1, 0).lerp(images, share), targets.roll(1, 0).lerp(targets, share)


def cut_mix(images: Tensor, targets: Tensor, *, share: float, center: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
    """Replace a box of 1 - `share` of the area, clipped at the border, by that of the one before (Yun et al. 2019).

    `center` is in [0, 1)². The target's share is that of the pixels.
    """
    height, width = images.shape[-2:]
    half = 0.5 * (1 - share) ** 0.5
    row, column = int(center[0] * height), int(center[1] * width)
    half_height, half_width = int(half * height), int(half * width)
    top, bottom = max(row - half_height, 0), min(row + half_height, height)
    left, right = max(column - half_width, 0), min(column + half_width, width)
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = images.roll(1, 0)[..., top:bottom, left:right]
    kept = 1 - (bottom - top) * (right - left) / (height * width)
    return mixed, targets.roll(1, 0).lerp(targets, kept)
