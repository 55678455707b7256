"""CAMs of our own transfer networks, whose base is frozen, against the grad-cam package on the same one unfrozen."""

import copy

import pytest
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from litlens.explain.cam import cam
from litlens.models.backbones import TransferNetwork


@pytest.mark.parametrize(
    ("backbone", "in_channels", "layer"),
    [("resnet18", 3, "layer4.1"), ("resnet18", 1, "layer4.1"), ("vgg16", 3, "features.30")],
)
def test_a_frozen_base_has_the_packages_maps(backbone: str, in_channels: int, layer: str) -> None:
    torch.manual_seed(0)
    network = TransferNetwork(num_classes=3, in_channels=in_channels, image_size=(96, 96), backbone=backbone)
    torch.nn.init.uniform_(network.head[-1].weight)  # so that something speaks for each class
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith("head"))
    images = torch.randn(2, in_channels, 96, 96)
    result = cam(network.train(), images, target=[2, 0])
    assert result.layer == layer
    unfrozen = copy.deepcopy(network).requires_grad_(True)
    maker = GradCAM(unfrozen, [unfrozen.get_submodule(layer)])
    expected = torch.from_numpy(maker(images, [ClassifierOutputTarget(number) for number in (2, 0)]))
    torch.testing.assert_close(result.maps, expected, rtol=0, atol=1e-6)
    assert result.maxima.min() > 0
    assert result.maps.std((1, 2)).min() > 0.05
    assert [name for name, parameter in network.named_parameters() if parameter.requires_grad] == [
        name for name, _ in network.named_parameters() if name.startswith("head")
    ]
