"""From an image of any mode and size to what the network takes, in two steps that a checkpoint can carry.

`geometry` brings an image to the network's size in uint8, `normalize` a batch of those to float32. Training augments
between the two; evaluation, prediction and export use them as they are.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from litlens.constants import NORMALIZATIONS
from litlens.errors import UserError

ResizeMode = Literal["crop", "squash", "pad"]
Pixels = NDArray[np.uint8]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Preprocessing:
    """How images are prepared: `size` is (H, W), `channels` 1 (gray) or 3 (RGB), mean and std of pixels in [0, 1].

    `resize_mode` handles another aspect ratio: `crop` the center, `squash` the image, or `pad` it with black.
    `value_range` is what `read_image` needs to read images of more than 8 bits as in training.
    """

    size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize_mode: ResizeMode = "crop"
    value_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                raise UserError(
                    f"normalize: {name} has {len(values)} values for images of {self.channels} channels; "
                    f"give {self.channels}, or a known set's name: auto, {', '.join(NORMALIZATIONS)}"
                )
        if min(self.std) <= 0:
            raise UserError(f"normalize: std {list(self.std)} must be positive")

    def geometry(self, source: Image.Image | Pixels) -> Pixels:
        """Bring a decoded source, or pixels (h, w, 1 or 3), to uint8 (H, W, C) by antialiased bicubic resampling."""
        image = source if isinstance(source, Image.Image) else _image(source)
        image = image.convert("L" if self.channels == 1 else "RGB")
        height, width = self.size
        if image.size != (width, height):
            photo_box, map_box = self.boxes((image.height, image.width))
            left, upper, right, lower = map_box
            image = image.resize((right - left, lower - upper), Image.Resampling.BICUBIC, box=photo_box)
            if self.resize_mode == "pad":
                canvas = Image.new(image.mode, (width, height))
                canvas.paste(image, (left, upper))
                image = canvas
        return np.array(image).reshape(height, width, self.channels)

    def boxes(self, size: tuple[int, int]) -> tuple[Box, tuple[int, int, int, int]]:
        """Which part of a photo of `size` (h, w) `geometry` shows, and where in its own result: two boxes.

        Both (left, upper, right, lower) in pixels, the second in whole ones; `explain.overlay` takes them to lay
        what the network saw over the whole photo.
        """
        (photo_height, photo_width), (height, width) = size, self.size
        if self.resize_mode == "pad":
            scale = min(width / photo_width, height / photo_height)
            w, h = (max(1, round(side * scale)) for side in (photo_width, photo_height))
            left, upper = (width - w) // 2, (height - h) // 2
            return (0, 0, photo_width, photo_height), (left, upper, left + w, upper + h)
        seen_width, seen_height = float(photo_width), float(photo_height)
        if self.resize_mode == "crop":
            aspect = width / height
            seen_width, seen_height = min(seen_width, photo_height * aspect), min(seen_height, photo_width / aspect)
        x, y = (photo_width - seen_width) / 2, (photo_height - seen_height) / 2
        return (x, y, (photo_width + seen_width) / 2, (photo_height + seen_height) / 2), (0, 0, width, height)

    def normalize(self, batch: Pixels | Tensor) -> Tensor:
        """Turn uint8 (B, H, W, C) into float32 (B, C, H, W), (pixel / 255 - mean) / std, channels last in memory."""
        pixels = torch.as_tensor(batch)
        scale = 1 / (255 * torch.tensor(self.std, dtype=torch.float32))
        shift = torch.tensor(self.mean, dtype=torch.float32) / torch.tensor(self.std, dtype=torch.float32)
        # Not waiting for the copies: on a GPU they would hold up every step until the one before has ended.
        scale, shift = (values.to(pixels.device, non_blocking=True) for values in (scale, shift))
        return pixels.to(torch.float32).mul_(scale).sub_(shift).permute(0, 3, 1, 2)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for a checkpoint."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Preprocessing":
        """The inverse of `to_dict`."""
        restored: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return cls(**restored)


def _image(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)
