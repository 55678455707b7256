"""Which layer is chosen: the last with a map, by number, by name."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import mobilenet_v2, resnet18, squeezenet1_1, vgg16

from litlens.errors import UserError
from litlens.explain.map_layers import NoMapError, convolutions, find_layer, last_map_layers
from litlens.explain.preserve_state import preserve_state


@pytest.fixture(scope="module")
def vgg() -> nn.Module:
    network = vgg16(init_weights=False)
    for position in (0, 3):  # 4096 wide, 0.5 GB: the layers with maps are what this is about
        network.classifier[position] = nn.Identity()
    network.classifier[6] = nn.Linear(25088, 2)
    return network


@pytest.mark.parametrize(
    ("size", "layer"),
    [(224, "avgpool"), (32, "features.29"), (96, "avgpool")],  # at 32, avgpool repeats one value
)
def test_vgg16(vgg: nn.Module, size: int, layer: str) -> None:
    with preserve_state(vgg):
        assert next(last_map_layers(vgg, torch.zeros(1, 3, size, size))) == layer


@pytest.mark.parametrize(
    ("size", "layer"),
    [(224, "layer4.1"), (64, "layer4.1"), (28, "layer3.1")],  # at 28, layer4 is 1×1
)
def test_resnet18(size: int, layer: str) -> None:
    network = resnet18(num_classes=2)
    with preserve_state(network):
        assert next(last_map_layers(network, torch.zeros(1, 3, size, size))) == layer


def test_other_networks(inplace_net: Any) -> None:
    images = torch.zeros(1, 3, 64, 64)
    for network, layer in ((mobilenet_v2(), "features.18.2"), (squeezenet1_1(), "classifier.2")):
        with preserve_state(network):
            assert next(last_map_layers(network, images)) == layer
    with preserve_state(inplace_net):  # its pooled 2×2 map is the last that is larger than 1×1
        assert next(last_map_layers(inplace_net, images)) == "head.0"


def test_convolutions_are_in_the_order_of_the_forward() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.second, self.first, self.aside = (nn.Conv2d(1, 1, 1) for _ in range(3))

        def forward(self, images: Tensor) -> Tensor:
            return self.second(self.first(images)).flatten(1)  # type: ignore[no-any-return]

    assert convolutions(Backwards(), torch.zeros(1, 1, 4, 4)) == ["first", "second"]
    with pytest.raises(NoMapError):
        convolutions(nn.Flatten(), torch.zeros(1, 1, 4, 4))


def test_layers_by_number_are_those_without_children(inplace_net: Any) -> None:
    assert find_layer(inplace_net, 0) == ("features.0", inplace_net.features[0])
    assert find_layer(inplace_net, 9)[0] == "head.0"
    assert find_layer(inplace_net, -1) == ("head.3", inplace_net.head[3])
    assert find_layer(inplace_net, "features") == ("features", inplace_net.features)
    with pytest.raises(UserError, match="has no layer -14: it has layers 0 to 12"):
        find_layer(inplace_net, -14)
