"""The convolutional networks that are trained from scratch, each defined by its constructor."""

import itertools

from torch import Tensor, nn

from litlens.models.networks.building_blocks import (
    Activation,
    Initialization,
    Network,
    activation_layer,
    conv,
    dense,
    initialize,
)


class MnistCNN(Network):
    """Two blocks of conv-conv-BN-activation-pool, one linear layer: 513,930 parameters at 1×28×28, K=10.

    `inner_activation` is between the two convolutions of a block; the original had none there.

    The linear layer needs a lower learning rate, `lr_scales: {head: 0.03}` on the classifier: it has 12,544 inputs,
    the weight of each changes by the full rate in a step of Adam, and at the convolutions' rate the logits jump. Yang
    and Hu derive a rate that falls with the number of inputs ("Tensor Programs V", 2022, table 3).
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        image_size: tuple[int, int] = (28, 28),
        activation: Activation = "relu",
        inner_activation: Activation = "linear",
        initialization: Initialization | None = "xavier_uniform",
        dropout: float = 0.1,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()

        def block(channels_in: int, channels_inside: int, channels_out: int) -> list[nn.Module]:
            return [
                nn.Conv2d(channels_in, channels_inside, 3, padding=1),
                activation_layer(inner_activation),
                *conv(channels_inside, channels_out, 3, activation, batch_norm, padding=1),
                nn.MaxPool2d(2),
            ]

        self.features = nn.Sequential(
            *block(in_channels, 32, 64),
            nn.Dropout(dropout),
            *block(64, 128, 256),
        )
        flat = self.flat_size(self.features, in_channels, image_size)
        self.head = nn.Linear(flat, num_classes)
        initialize(self, initialization, activation)


class FashionCNN(Network):
    """Conv 32, conv 64, each BN-activation-pool; linear 600, 120, K: 1,475,338 parameters at 1×28×28, K=10.

    `channels` and `hidden` are these widths. `head_activation` is between the linear layers, where the original had
    none; `dropout` follows the first of them.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        image_size: tuple[int, int] = (28, 28),
        activation: Activation = "relu",
        head_activation: Activation = "linear",
        initialization: Initialization | None = None,
        dropout: float = 0.25,
        batch_norm: bool = True,
        channels: tuple[int, int] = (32, 64),
        hidden: tuple[int, ...] = (600, 120),
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *conv(in_channels, channels[0], 3, activation, batch_norm, padding=1),
            nn.MaxPool2d(2),
            *conv(channels[0], channels[1], 3, activation, batch_norm),
            nn.MaxPool2d(2),
        )
        flat = self.flat_size(self.features, in_channels, image_size)
        head = [nn.Linear(flat, hidden[0]), activation_layer(head_activation), nn.Dropout(dropout)]
        for incoming, width in itertools.pairwise(hidden):
            head += [nn.Linear(incoming, width), activation_layer(head_activation)]
        self.head = nn.Sequential(*head, nn.Linear(hidden[-1], num_classes))
        initialize(self.features, initialization, activation)
        initialize(self.head, initialization, head_activation)


class BottleneckCNN(Network):
    """A stem, four stages of 1×1-3×3-1×1 bottlenecks, no shortcuts: 2,636,148 parameters at 1×90×90, K=52.

    Every convolution has a bias and is followed by BN and the activation. `dropout`: before and after the hidden
    linear layer.
    """

    def __init__(
        self,
        num_classes: int = 52,
        in_channels: int = 1,
        image_size: tuple[int, int] = (90, 90),
        activation: Activation = "relu",
        initialization: Initialization | None = "he_uniform",
        dropout: tuple[float, float] = (0.5, 0.3),
        batch_norm: bool = True,
    ) -> None:
        super().__init__()

        def bottleneck(channels_in: int, channels_inside: int, channels_out: int) -> list[nn.Module]:
            return [
                *conv(channels_in, channels_inside, 1, activation, batch_norm),
                *conv(channels_inside, channels_inside, 3, activation, batch_norm, padding=1),
                *conv(channels_inside, channels_out, 1, activation, batch_norm),
            ]

        def stage(channels_in: int, channels_inside: int, channels_out: int, pool: nn.Module) -> nn.Sequential:
            return nn.Sequential(
                *bottleneck(channels_in, channels_inside, channels_out),
                *bottleneck(channels_out, channels_inside, channels_out),
                pool,
            )

        self.features = nn.Sequential(
            nn.Sequential(*conv(in_channels, 16, 7, activation, batch_norm), nn.MaxPool2d(3, stride=2)),
            stage(16, 16, 32, nn.MaxPool2d(2)),
            stage(32, 32, 128, nn.MaxPool2d(2)),
            stage(128, 128, 256, nn.MaxPool2d(2)),
            stage(256, 256, 512, nn.AvgPool2d(2)),
        )
        flat = self.flat_size(self.features, in_channels, image_size)
        self.head = nn.Sequential(
            nn.Dropout(dropout[0]),
            *dense(flat, 256, activation, batch_norm),
            nn.Dropout(dropout[1]),
            nn.Linear(256, num_classes),
        )
        initialize(self, initialization, activation)


class CatDogCNN(Network):
    """VGG-like, 13 convolutions in five blocks, global average pooling: 14,983,106 parameters with 2 classes.

    `features` is one flat sequence, 52 layers with BN. `dropout`: after the first convolution, after all others
    that no pool follows, and around the hidden linear layer. Layers that BN follows have no bias.
    """

    def __init__(
        self,
        num_classes: int = 2,
        in_channels: int = 3,
        image_size: tuple[int, int] = (100, 100),
        activation: Activation = "relu",
        initialization: Initialization | None = None,
        dropout: tuple[float, float, float] = (0.3, 0.4, 0.5),
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        first_dropout, conv_dropout, head_dropout = dropout
        layers: list[nn.Module] = []
        channels = in_channels
        for widths in ([64, 64], [128, 128], [256] * 3, [512] * 3, [512] * 3):
            for position, width in enumerate(widths):
                is_first = not layers
                padding = 0 if is_first else 1
                layers += conv(channels, width, 3, activation, batch_norm, padding=padding, bias=not batch_norm)
                if position < len(widths) - 1:
                    layers.append(nn.Dropout(first_dropout if is_first else conv_dropout))
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.flat_size(self.features, in_channels, image_size)  # a check: the pooling takes any size
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(512, 512, bias=not batch_norm),
            nn.Dropout(head_dropout),
            *([nn.BatchNorm1d(512)] if batch_norm else []),
            activation_layer(activation),
            nn.Dropout(head_dropout),
            nn.Linear(512, num_classes),
        )
        initialize(self, initialization, activation)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits (B, num_classes) of images (B, C, H, W); the head pools."""
        logits: Tensor = self.head(self.features(images))
        return logits


class LeNet5(Network):
    """LeCun et al. 1998 in its usual modern form, with plain pools: 61,706 parameters at 1×28×28, 10 classes.

    The first convolution is padded by 2, as the original padded MNIST from 28 to 32.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        image_size: tuple[int, int] = (28, 28),
        activation: Activation = "tanh",
        initialization: Initialization | None = "xavier_uniform",
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *conv(in_channels, 6, 5, activation, batch_norm, padding=2),
            nn.AvgPool2d(2),
            *conv(6, 16, 5, activation, batch_norm),
            nn.AvgPool2d(2),
        )
        flat = self.flat_size(self.features, in_channels, image_size)
        self.head = nn.Sequential(
            *dense(flat, 120, activation, batch_norm),
            nn.Dropout(dropout),
            *dense(120, 84, activation, batch_norm),
            nn.Linear(84, num_classes),
        )
        initialize(self, initialization, activation)
