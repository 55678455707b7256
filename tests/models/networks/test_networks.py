"""One contract for every scratch network, and the properties of each."""

import copy

import pytest
import torch
from torch import nn

from litlens.errors import UserError
from litlens.models.networks.building_blocks import Network
from litlens.models.networks.mlp import MLP, FashionMLP
from litlens.models.networks.scratch import BottleneckCNN, CatDogCNN, FashionCNN, LeNet5, MnistCNN

NETWORKS = [MnistCNN, FashionMLP, FashionCNN, BottleneckCNN, CatDogCNN, LeNet5, MLP]
# The smallest square image, worked out by hand from kernels and pools; an MLP takes any.
SMALLEST = {MnistCNN: 4, FashionCNN: 8, BottleneckCNN: 39, CatDogCNN: 34, LeNet5: 12}


@pytest.mark.parametrize(
    ("network", "parameters"),
    [
        (MnistCNN, 513_930),
        (FashionMLP, 235_146),
        (FashionCNN, 1_475_338),
        (BottleneckCNN, 2_636_148),
        (CatDogCNN, 14_983_106),
        (LeNet5, 61_706),
        (MLP, 784 * 128 + 128 + 128 * 10 + 10),
    ],
)
def test_parameter_counts(network: type[Network], parameters: int) -> None:
    assert sum(weight.numel() for weight in network().parameters()) == parameters


@pytest.mark.parametrize("network", NETWORKS)
def test_contract(network: type[Network]) -> None:
    made = network(num_classes=3, in_channels=2, image_size=(40, 47), dropout=_times(network, 0.5))
    images = torch.randn(3, 2, 40, 47)
    logits = made(images)
    assert logits.shape == (3, 3)
    logits.square().mean().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in made.parameters())

    twin = copy.deepcopy(made)
    assert twin.arguments == made.arguments
    assert twin.arguments is not made.arguments
    torch.testing.assert_close(twin.eval()(images), made.eval()(images), rtol=0, atol=0)

    rebuilt = type(made)(**made.arguments)
    assert {name: value.shape for name, value in rebuilt.state_dict().items()} == {
        name: value.shape for name, value in made.state_dict().items()
    }


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu", "selu", "silu", "mish", "linear"])
def test_every_activation_is_in_the_network(network: type[Network], activation: str) -> None:
    made = network(image_size=(40, 40), activation=activation)
    kinds = {type(layer).__name__.lower() for layer in made.modules()}
    assert ("identity" if activation == "linear" else activation) in kinds
    assert activation in ("relu", "tanh") or not kinds & {"relu", "tanh"}


@pytest.mark.parametrize("network", NETWORKS)
def test_batch_norm_and_dropout_follow_their_parameters(network: type[Network]) -> None:
    plain = network(image_size=(40, 40), batch_norm=False, dropout=_times(network, 0.0))
    assert not any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in plain.modules())
    assert {layer.p for layer in plain.modules() if isinstance(layer, nn.Dropout)} <= {0.0}
    layers = [layer for layer in plain.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert all(layer.bias is not None for layer in layers)
    normed = network(image_size=(40, 40), batch_norm=True)
    assert any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in normed.modules())


@pytest.mark.parametrize(("network", "smallest"), SMALLEST.items())
def test_too_small_an_image_is_one_line(network: type[Network], smallest: int) -> None:
    with pytest.raises(UserError, match=f"smallest that work are {smallest}x{smallest}") as failure:
        network(image_size=(smallest - 1, 200))
    assert "\n" not in str(failure.value)
    made = network(image_size=(smallest, smallest)).eval()
    channels = made.arguments["in_channels"]
    assert made(torch.zeros(1, channels, smallest, smallest)).shape[0] == 1


def test_the_size_check_changes_neither_random_state_nor_statistics() -> None:
    torch.manual_seed(0)
    made = MnistCNN(initialization=None)
    after = torch.rand(1)
    torch.manual_seed(0)
    for shape in ((1, 32), (32, 64), (64, 128), (128, 256)):
        nn.Conv2d(*shape, 3)
    nn.Linear(12544, 10)
    assert torch.equal(after, torch.rand(1))
    norm = made.features[3]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.num_batches_tracked == 0
    assert norm.running_mean.eq(0).all()


def test_catdog_features_are_one_flat_sequence() -> None:
    features = CatDogCNN().features
    assert len(features) == 52
    shapes = [features[index].weight.shape[:2] for index in (0, 20, 40)]
    assert shapes == [(64, 3), (256, 256), (512, 512)]
    assert features[0].padding == (0, 0)
    assert [layer.p for layer in features if isinstance(layer, nn.Dropout)] == [0.3] + [0.4] * 7


def test_bottleneck_ends_in_two_by_two() -> None:
    assert BottleneckCNN().features.eval()(torch.zeros(1, 1, 90, 90)).shape == (1, 512, 2, 2)


def test_originals_without_an_activation() -> None:
    assert isinstance(MnistCNN().features[1], nn.Identity)
    assert isinstance(MnistCNN(inner_activation="silu").features[1], nn.SiLU)
    assert isinstance(FashionCNN().head[1], nn.Identity)
    assert isinstance(FashionCNN(head_activation="relu").head[4], nn.ReLU)


def test_fashion_cnn_has_the_widths_given() -> None:
    network = FashionCNN(channels=(16, 64), hidden=(128,), head_activation="relu")
    sizes = [16 * 10, 2 * 16, 16 * 64 * 9 + 64, 2 * 64, 64 * 36 * 128 + 128, 128 * 10 + 10]
    assert sum(weight.numel() for weight in network.parameters()) == sum(sizes)
    assert [type(layer).__name__ for layer in network.head] == ["Linear", "ReLU", "Dropout", "Linear"]


def test_mlp_widths() -> None:
    shapes = [tuple(weight.shape) for weight in MLP(widths=[7, 5], num_classes=3).parameters()]
    assert shapes == [(7, 784), (7,), (5, 7), (5,), (3, 5), (3,)]
    assert [tuple(weight.shape) for weight in MLP(widths=[]).parameters()] == [(10, 784), (10,)]


def test_logits_of_a_fixed_seed() -> None:
    """Fails if layers, their order or initialization change. Origin: this code, torch 2.14, CPU."""
    torch.manual_seed(0)
    network = MnistCNN()
    images = torch.randn(8, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    loss = nn.functional.cross_entropy(network.eval()(images), torch.arange(8))
    assert loss.item() == pytest.approx(2.571150, rel=1e-4)


def _times(network: type[Network], rate: float) -> float | tuple[float, ...]:
    """A dropout argument for any network: some have one rate, others two or three."""
    return {BottleneckCNN: (rate,) * 2, CatDogCNN: (rate,) * 3}.get(network, rate)
