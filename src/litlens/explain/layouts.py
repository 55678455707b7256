"""The axes of a layer's output: channels first (CNNs), channels last (Swin), or a sequence of tokens (ViT)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.ops import Permute

# Class tokens and registers come before the tokens of the patches (DINOv2 has five, the most).
_MOST_EXTRA_TOKENS = 8

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """How to read a layer's output as maps.

    `grid` is the (h, w) of the patches where the output is a sequence of tokens (B, N, C), whose last h·w are the
    patches row by row; else None, and the output has four dimensions.
    """

    channels_last: bool = False
    grid: tuple[int, int] | None = None

    def to_map(self, output: Tensor) -> Tensor:
        """The output as (B, C, h, w), a view; tokens that belong to no patch are left out."""
        if self.grid:
            height, width = self.grid
            patches = output[:, output.shape[1] - height * width :]
            return patches.transpose(1, 2).view(len(output), output.shape[2], height, width)
        return output.permute(0, 3, 1, 2) if self.channels_last else output

    def extra_tokens(self, output: Tensor) -> Tensor:
        """The tokens (B, n, C) that belong to no patch; none where the output is not a sequence of tokens."""
        return output[:, : output.shape[1] - self.grid[0] * self.grid[1]] if self.grid else output[:, :0]


class ForwardRecord:
    """The layers that a forward has run so far, and the layouts of their outputs.

    Register `note` as a forward hook of the layers in `watched`, before any hook that asks for a layout.
    """

    def __init__(self, image_size: Sequence[int]) -> None:
        self._image_size = tuple(image_size)
        self._channels_last: dict[
            Shape, bool
        ] = {}  # by the shape of the latest output of a layer whose type gives the layout
        self._grids: list[tuple[int, int]] = []

    @staticmethod
    def watched(network: nn.Module, layer: nn.Module) -> Iterable[nn.Module]:
        """The layers to register `note` on before `layer` is read: only itself where its type gives the layout."""
        return [layer] if _channels_last(layer) is False else network.modules()

    def note(self, module: nn.Module, _inputs: object, output: object) -> None:
        """Forward hook: record the layout that this layer's type gives to its output."""
        if not isinstance(output, Tensor) or output.ndim not in (3, 4):
            return
        channels_last = _channels_last(module)
        if channels_last is not None:
            self._channels_last[tuple(output.shape)] = channels_last
            if output.ndim == 4:
                height, width = output.shape[1:3] if channels_last else output.shape[2:]
                self._grids.append((height, width))

    def layout(self, output: object) -> Layout | None:
        """The layout of the output of the layer that has just run; None where the axis of the channels is unknown.

        The layer's own type decides; else the latest layer whose output had the same shape, since activations,
        dropout and residual blocks keep the layout; else, of maps, the only reading with the images' aspect ratio.
        """
        if not isinstance(output, Tensor):
            return None
        known = self._channels_last.get(tuple(output.shape))
        if output.ndim == 3 and known:
            extra = ((output.shape[1] - height * width, (height, width)) for height, width in reversed(self._grids))
            return next((Layout(True, grid) for count, grid in extra if 0 <= count <= _MOST_EXTRA_TOKENS), None)
        if output.ndim == 4 and known is not None:
            return Layout(known)
        if output.ndim == 4:
            first, last = (self._has_aspect(output.shape[axis : axis + 2]) for axis in (2, 1))
            if first != last:
                return Layout(last)
        return None

    def _has_aspect(self, size: Sequence[int]) -> bool:
        """Whether one stride makes maps of this size from the images, up to one pixel at the border."""
        (height, width), (h, w) = self._image_size, size
        return abs(height * w - width * h) <= max(height, width) and h <= height and w <= width


def _channels_last(module: nn.Module) -> bool | None:
    """Whether a layer's type has its channels last; None for a type that takes any layout."""
    if isinstance(module, Permute):
        return {(0, 3, 1, 2): False, (0, 2, 3, 1): True}.get(tuple(module.dims))
    # torch's convention, which torchvision's and timm's LayerNorm2d and FrozenBatchNorm2d follow.
    if isinstance(module, nn.GroupNorm) or type(module).__name__.endswith("2d"):
        return False
    if isinstance(module, nn.LayerNorm | torch.nn.RMSNorm) and len(module.normalized_shape) == 1:
        return True
    return None
