"""Fully connected networks: they flatten the images first."""

from collections.abc import Sequence

from torch import Tensor, nn

from litlens.models.networks.layers import Activation, Initialization, Network, dense, initialize


class FashionMLP(Network):
    """Pixels-256-128-K with dropout after the first hidden layer: 235,146 parameters at 1×28×28, K=10."""

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        image_size: tuple[int, int] = (28, 28),
        activation: Activation = "relu",
        initialization: Initialization | None = None,
        dropout: float = 0.25,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *dense(in_channels * image_size[0] * image_size[1], 256, activation, batch_norm),
            nn.Dropout(dropout),
            *dense(256, 128, activation, batch_norm),
            nn.Linear(128, num_classes),
        )
        initialize(self, initialization, activation)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes) of images (B, C, H, W)."""
        logits: Tensor = self.layers(images.flatten(1))
        return logits


class MLP(Network):
    """Hidden layers of any widths, each followed by dropout; with no widths at all a linear model."""

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        image_size: tuple[int, int] = (28, 28),
        widths: Sequence[int] = (128,),
        activation: Activation = "relu",
        initialization: Initialization | None = None,
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        incoming = in_channels * image_size[0] * image_size[1]
        for width in widths:
            layers += [*dense(incoming, width, activation, batch_norm), nn.Dropout(dropout)]
            incoming = width
        self.layers = nn.Sequential(*layers, nn.Linear(incoming, num_classes))
        initialize(self, initialization, activation)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes) of images (B, C, H, W)."""
        logits: Tensor = self.layers(images.flatten(1))
        return logits
