"""From a decoded image to the input of a network, in two steps that a checkpoint stores: resize, then normalize.

Training augments between the two; evaluation, prediction and export use them as they are.
"""

from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from litlens.errors import UserError

ResizeMode = Literal["crop", "squash", "pad"]
Pixels = NDArray[np.uint8]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Resize:
    """Bring a decoded image to `size` (H, W).

    `mode` handles another aspect ratio: `crop` the center, `squash` the image, or `pad` it with black.
    """

    size: tuple[int, int]
    mode: ResizeMode = "crop"

    def __call__(self, pixels: Pixels) -> Pixels:
        """Resize uint8 (h, w, C), C 1 or 3, to uint8 (H, W, C) by antialiased bicubic resampling."""
        height, width = self.size
        if pixels.shape[:2] == (height, width):
            return pixels
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        image_box, (left, upper, right, lower) = self.boxes((image.height, image.width))
        image = image.resize((right - left, lower - upper), Image.Resampling.BICUBIC, box=image_box)
        if self.mode == "pad":
            canvas = Image.new(image.mode, (width, height))
            canvas.paste(image, (left, upper))
            image = canvas
        return np.array(image).reshape(height, width, -1)

    def boxes(self, size: tuple[int, int]) -> tuple[Box, tuple[int, int, int, int]]:
        """Two boxes: the part of an image of `size` (h, w) that is kept, and its place in the result.

        Both are (left, upper, right, lower) in pixels, the second in integers; `explain.overlay` uses them to draw
        a map of what the network saw over the original image.
        """
        (image_height, image_width), (height, width) = size, self.size
        if self.mode == "pad":
            scale = min(width / image_width, height / image_height)
            w, h = (max(1, round(side * scale)) for side in (image_width, image_height))
            left, upper = (width - w) // 2, (height - h) // 2
            return (0, 0, image_width, image_height), (left, upper, left + w, upper + h)
        seen_width, seen_height = float(image_width), float(image_height)
        if self.mode == "crop":
            aspect = width / height
            seen_width, seen_height = min(seen_width, image_height * aspect), min(seen_height, image_width / aspect)
        x, y = (image_width - seen_width) / 2, (image_height - seen_height) / 2
        return (x, y, (image_width + seen_width) / 2, (image_height + seen_height) / 2), (0, 0, width, height)


@dataclass(frozen=True)
class Normalize:
    """Normalize pixels by `mean` and `std` per channel, both of pixels in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise UserError(f"normalize: mean {list(self.mean)} and std {list(self.std)}: give one value per channel")
        if min(self.std) <= 0:
            raise UserError(f"normalize: std {list(self.std)}: give values above 0")

    def __call__(self, batch: Pixels | Tensor) -> Tensor:
        """Turn uint8 (B, H, W, C) into float32 (B, C, H, W), (pixel / 255 - mean) / std, channels last in memory."""
        pixels = torch.as_tensor(batch)
        number, height, width, channels = pixels.shape
        # Of colors, a row of pixels at a time: torch is up to five times slower over an innermost dimension of three.
        repeated = width if channels > 1 else 1
        # Tensors of a tracer (torch.export) must not be kept.
        constants = _scale_and_shift.__wrapped__ if torch.compiler.is_compiling() else _scale_and_shift
        scale, shift = constants(tuple(self.mean), tuple(self.std), repeated, pixels.device)
        rows = pixels.to(torch.float32).reshape(number, height, width * channels)
        return rows.mul_(scale).sub_(shift).view(pixels.shape).permute(0, 3, 1, 2)

    @cached_property
    def table(self) -> NDArray[np.float32]:
        """What each of the 256 values of a pixel becomes, in each channel: float32 (1, 256, C)."""
        values = np.arange(256, dtype=np.uint8).reshape(1, 1, 256, 1).repeat(len(self.mean), axis=3)
        return np.ascontiguousarray(self(values)[0].permute(1, 2, 0).numpy())


@lru_cache(maxsize=32)
def _scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...], repeated: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """What the channels of so many pixels, one after the other, are multiplied by and what is then subtracted.

    Kept, since on a GPU a copy from the host in every step would hold it up.
    """
    with torch.inference_mode(False):
        means, stds = torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32)
        return (1 / (255 * stds)).repeat(repeated).to(device), (means / stds).repeat(repeated).to(device)


@dataclass(frozen=True)
class Preprocessing:
    """How images become the input of a network; `read_image` takes `channels` and `value_range` to decode them."""

    resize: Resize
    normalize: Normalize
    value_range: tuple[float, float] | None = None

    @property
    def channels(self) -> int:
        """1 for gray images, 3 for RGB."""
        return len(self.normalize.mean)

    def to_dict(self) -> dict[str, Any]:
        """As nested plain values, for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Preprocessing":
        """The inverse of `to_dict`."""
        return cls(Resize(**values["resize"]), Normalize(**values["normalize"]), values["value_range"])
