"""What scratch networks are built from: a base class, activations and initializations by name."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from litlens.errors import UserError
from litlens.models.recording import KeepsArguments

Activation = Literal["sigmoid", "tanh", "relu", "selu", "silu", "mish", "linear"]
Initialization = Literal["xavier_uniform", "xavier_normal", "he_uniform", "he_normal"]


class Network(KeepsArguments, nn.Module):
    """Base of the scratch networks: images (B, C, H, W) in, logits (B, num_classes) out.

    Every subclass takes `num_classes`, `in_channels` and `image_size` (H, W) as keywords.
    """

    def flat_size(self, layers: nn.Module, in_channels: int, image_size: tuple[int, int]) -> int:
        """How many values `layers` makes of one image.

        Raises UserError, with the smallest size that works, where nothing is left of an image of this size.
        """
        size = _flat_size_on_meta(layers, in_channels, *image_size)
        if size:
            return size
        sides = (side for side in range(1, 1025) if _flat_size_on_meta(layers, in_channels, side, side))
        smallest = next(sides, None)
        if smallest is None:
            raise UserError(f"{type(self).__name__}: no size up to 1024x1024 works with {in_channels} channels.")
        height, width = image_size
        raise UserError(
            f"{type(self).__name__}: images of {height}x{width} are too small, the smallest that work are "
            f"{smallest}x{smallest}: set a larger image_size on the data."
        )


def activation_layer(name: Activation) -> nn.Module:
    """The layer of that name; `linear` passes its input on."""
    return _ACTIVATIONS[name]()


def norm_2d(channels: int, batch_norm: bool) -> list[nn.Module]:
    """Batch norm after a convolution, or nothing."""
    return [nn.BatchNorm2d(channels)] if batch_norm else []


def norm_1d(channels: int, batch_norm: bool) -> list[nn.Module]:
    """Batch norm after a linear layer, or nothing."""
    return [nn.BatchNorm1d(channels)] if batch_norm else []


def dense(incoming: int, width: int, activation: Activation, batch_norm: bool) -> list[nn.Module]:
    """A hidden linear layer with what follows it."""
    return [nn.Linear(incoming, width), *norm_1d(width, batch_norm), activation_layer(activation)]


def initialize(module: nn.Module, initialization: Initialization | None, activation: Activation) -> None:
    """Draws the weights of every convolution and linear layer anew, biases zero; None leaves torch's own.

    Normalization layers stay as they are. Variance by Xavier (Glorot and Bengio 2010): gain² · 2 / (fan_in +
    fan_out), by He (He et al. 2015): gain² / fan_in. The gain is that of the activation between the layers.
    """
    if initialization is None:
        return
    draw = _INITIALISATIONS[initialization]
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            draw(layer.weight, _GAINS[activation])
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _he_uniform(weight: Tensor, gain: float) -> None:
    fan_in = weight[0].numel()
    bound = gain * (3.0 / fan_in) ** 0.5
    nn.init.uniform_(weight, -bound, bound)


def _he_normal(weight: Tensor, gain: float) -> None:
    nn.init.normal_(weight, 0.0, gain / weight[0].numel() ** 0.5)


_ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "selu": nn.SELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "linear": nn.Identity,
}

# torch.nn.init.calculate_gain, with three exceptions. SELU: 1, which its fixed point needs (Klambauer et al.
# 2017; torch's docs advise it, too). SiLU and Mish, which torch does not know: 1 / sqrt(E[f(z)²]) with z
# normal, the rule that gives sqrt(2) for ReLU and 1 for SELU.
_GAINS: dict[Activation, float] = {
    "sigmoid": 1.0,
    "tanh": 5 / 3,
    "relu": 2**0.5,
    "selu": 1.0,
    "silu": 1.6765,
    "mish": 1.4868,
    "linear": 1.0,
}

_INITIALISATIONS: dict[Initialization, Callable[[Tensor, float], object]] = {
    "xavier_uniform": nn.init.xavier_uniform_,
    "xavier_normal": nn.init.xavier_normal_,
    "he_uniform": _he_uniform,
    "he_normal": _he_normal,
}


def _flat_size_on_meta(layers: nn.Module, in_channels: int, height: int, width: int) -> int:
    """Runs the layers on shapes alone, without data or arithmetic; 0 where they fail or leave nothing."""
    weights = {name: torch.empty_like(value, device="meta") for name, value in layers.state_dict().items()}
    # Two images, as BN in training mode refuses a single value per channel.
    images = torch.empty(2, in_channels, height, width, device="meta")
    try:
        output: Tensor = torch.func.functional_call(layers, weights, images)
    except (
        RuntimeError,
        ValueError,
        AssertionError,
    ):  # torch: "Output size is too small", "Kernel size can't be greater ..."
        return 0
    return output.numel() // 2
