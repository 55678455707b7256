"""Fully connected networks: they flatten the images first."""

from collections.abc import Sequence

from torch import Tensor, nn

from litlens.models.networks.building_blocks import Activation, Initialization, Network, dense, initialize


class MLP(Network):
    """Hidden layers of any widths, each followed by dropout; without any, a linear model."""

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
        """Compute the logits (B, num_classes) of images (B, C, H, W)."""
        logits: Tensor = self.layers(images.flatten(1))
        return logits


class FashionMLP(MLP):
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
        super().__init__(
            num_classes, in_channels, image_size, (256, 128), activation, initialization, dropout, batch_norm
        )
        del self.layers[-2]  # the dropout after the second hidden layer
