"""What stands in the table of layers: names, exact counts, and what trains."""

import pytest
import torch
from rich.console import Console
from torch import nn

from litlens.cli.layers import layer_table
from litlens.models.backbones import TransferNetwork
from litlens.models.classifier import ImageClassifier
from litlens.models.networks.scratch import BottleneckCNN, CatDogCNN, MnistCNN
from litlens.models.transfer import TransferClassifier


def rows(classifier: ImageClassifier) -> list[list[str]]:
    console = Console(width=120)
    with console.capture() as text:
        console.print(layer_table(classifier))
    return [line.split() for line in text.get().splitlines()[1:]]


def classifier(network: nn.Module, classes: int) -> ImageClassifier:
    return ImageClassifier(network, [str(number) for number in range(classes)])


def test_a_pretrained_network_names_every_layer_and_whether_it_trains() -> None:
    with torch.device("meta"):
        vgg = TransferNetwork(
            num_classes=4, image_size=(150, 150), backbone="vgg16", head=[4096, 2048, 1024], pool="none"
        )
    model = TransferClassifier(
        vgg, list("abcd"), strategy="partial", train_from="block5_conv1", unfreeze_epoch=20, channels_last=False
    )
    table = rows(model)
    assert len(table) == 15
    assert table[9] == ["features.21", "(block4_conv3)", "Conv2d", "2,359,808", "no"]
    assert table[10] == ["features.24", "(block5_conv1)", "Conv2d", "2,359,808", "yes,", "from", "epoch", "20"]
    assert table[13] == ["head", "Sequential", "44,051,460", "yes"]
    # 14,714,688 of the base, without the three layers of block 5 that train later.
    assert table[14] == ["58,766,148", f"{44_051_460 + 3 * 2_359_808:,}"]


def test_a_small_network_shows_its_layers() -> None:
    table = rows(classifier(MnistCNN(num_classes=10, in_channels=1, image_size=(28, 28)), 10))
    assert [row[1] for row in table[:-1]] == ["Conv2d", "Conv2d", "BatchNorm2d"] * 2 + ["Linear"]
    assert table[0] == ["features.0", "Conv2d", "320", "yes"]
    assert table[-1] == ["513,930", "513,930"]


@pytest.mark.parametrize(
    ("network", "names", "parameters"),
    [
        (
            BottleneckCNN(num_classes=52, in_channels=1, image_size=(90, 90)),
            [*(f"features.{stage}" for stage in range(5)), "head.1", "head.2", "head.5"],
            "2,636,148",
        ),
        (CatDogCNN(num_classes=2, in_channels=3, image_size=(64, 64)), ["features", "head"], "14,983,106"),
    ],
    ids=["five stages", "52 layers in a row"],
)
def test_a_deep_network_shows_its_parts(network: nn.Module, names: list[str], parameters: str) -> None:
    table = rows(classifier(network, 2))
    assert [row[0] for row in table[:-1]] == names
    assert table[-1] == [parameters, parameters]


def test_what_is_fixed_is_told_and_counted() -> None:
    network = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    network[0].requires_grad_(False)
    assert rows(classifier(network, 2)) == [["0", "Linear", "15", "no"], ["1", "Linear", "8", "yes"], ["23", "8"]]
