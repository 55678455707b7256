"""What the networks are built from: a base class, layers, activations and initializations by name."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from litlens.errors import UserError
from litlens.models.constructor_arguments import KeepsArguments

Activation = Literal["sigmoid", "tanh", "relu", "selu", "silu", "mish", "linear"]
Initialization = Literal["xavier_uniform", "xavier_normal", "he_uniform", "he_normal"]


class Network(KeepsArguments, nn.Module):
    """Base of the networks: images (B, C, H, W) in, logits (B, num_classes) out.

    Every subclass takes `num_classes`, `in_channels` and `image_size` (H, W) as keywords. One without a forward of
    its own has `features`, whose output is flattened, and `head`.
    """

    features: nn.Module
    head: nn.Module

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits (B, num_classes) of images (B, C, H, W)."""
        logits: Tensor = self.head(self.features(images).flatten(1))
        return logits

    def flat_size(
        self,
        layers: nn.Module,
        in_channels: int,
        image_size: tuple[int, int],
        *,
        designed_for: tuple[int, int] | None = None,
    ) -> int:
        """The number of values that `layers` computes from one image.

        Raises UserError where an image of this size does not fit, with the size that a network of windows or patches is
        designed for, of others with the smallest that works.
        """
        size = _flat_size_on_meta(layers, in_channels, *image_size)
        if size:
            return size
        height, width = image_size
        if designed_for is not None:
            own = "x".join(map(str, designed_for))
            raise UserError(
                f"{type(self).__name__}: images of {height}x{width} do not fit this network, which is designed for "
                f"{own}: set image_size {own} on the data"
            )
        sides = (side for side in range(1, 1025) if _flat_size_on_meta(layers, in_channels, side, side))
        smallest = next(sides, None)
        if smallest is None:
            raise UserError(f"{type(self).__name__}: no image_size up to 1024x1024 works with {in_channels} channels")
        raise UserError(
            f"{type(self).__name__}: images of {height}x{width} are too small, the smallest that work are "
            f"{smallest}x{smallest}: set a larger image_size on the data"
        )


def activation_layer(name: Activation) -> nn.Module:
    """The layer of that name; `linear` is the identity."""
    return _ACTIVATIONS[name][0]()


def conv(
    channels_in: int,
    channels_out: int,
    kernel: int,
    activation: Activation,
    batch_norm: bool,
    *,
    padding: int = 0,
    bias: bool = True,
) -> list[nn.Module]:
    """A convolution, batch norm if wanted, and the activation."""
    return [
        nn.Conv2d(channels_in, channels_out, kernel, padding=padding, bias=bias),
        *([nn.BatchNorm2d(channels_out)] if batch_norm else []),
        activation_layer(activation),
    ]


def dense(incoming: int, width: int, activation: Activation, batch_norm: bool) -> list[nn.Module]:
    """A linear layer, batch norm if wanted, and the activation."""
    return [
        nn.Linear(incoming, width),
        *([nn.BatchNorm1d(width)] if batch_norm else []),
        activation_layer(activation),
    ]


def initialize(module: nn.Module, initialization: Initialization | None, activation: Activation) -> None:
    """Initialize the weights of all convolutions and linear layers, and biases to zero; None keeps torch's own.

    Normalization layers do not change. Variance by Xavier (Glorot and Bengio 2010): gain² · 2 / (fan_in +
    fan_out), by He (He et al. 2015): gain² / fan_in. The gain is that of the activation between the layers.
    """
    if initialization is None:
        return
    draw, gain = _INITIALIZATIONS[initialization], _ACTIVATIONS[activation][1]
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            draw(layer.weight, gain)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _he_uniform(weight: Tensor, gain: float) -> None:
    fan_in = weight[0].numel()
    bound = gain * (3.0 / fan_in) ** 0.5
    nn.init.uniform_(weight, -bound, bound)


def _he_normal(weight: Tensor, gain: float) -> None:
    nn.init.normal_(weight, 0.0, gain / weight[0].numel() ** 0.5)


# Each with its gain: torch.nn.init.calculate_gain, with three exceptions. SELU: 1, which its fixed point needs
# (Klambauer et al. 2017; torch's docs advise it, too). SiLU and Mish, which torch does not know: 1 / sqrt(E[f(z)²])
# with z normal, the rule that gives sqrt(2) for ReLU and 1 for SELU.
_ACTIVATIONS: dict[Activation, tuple[type[nn.Module], float]] = {
    "sigmoid": (nn.Sigmoid, 1.0),
    "tanh": (nn.Tanh, 5 / 3),
    "relu": (nn.ReLU, 2**0.5),
    "selu": (nn.SELU, 1.0),
    "silu": (nn.SiLU, 1.6765),
    "mish": (nn.Mish, 1.4868),
    "linear": (nn.Identity, 1.0),
}

_INITIALIZATIONS: dict[Initialization, Callable[[Tensor, float], object]] = {
    "xavier_uniform": nn.init.xavier_uniform_,
    "xavier_normal": nn.init.xavier_normal_,
    "he_uniform": _he_uniform,
    "he_normal": _he_normal,
}


def _flat_size_on_meta(layers: nn.Module, in_channels: int, height: int, width: int) -> int:
    """The same from shapes alone, without data or arithmetic; 0 where the layers fail."""
    # Not the state dict, which lacks buffers that are not persistent.
    tensors = [*layers.named_parameters(), *layers.named_buffers()]
    weights = {name: torch.empty_like(value, device="meta") for name, value in tensors}
    # Two images, as BN in training mode refuses a single value per channel.
    images = torch.empty(2, in_channels, height, width, device="meta")
    try:
        output: Tensor = torch.func.functional_call(layers, weights, images)
    except (RuntimeError, ValueError, AssertionError):  # torch: "Output size is too small", "Kernel size can't be …"
        return 0
    return output.numel() // 2
