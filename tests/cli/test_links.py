"""A LightningCLI of another project names our classes, and their own, and sets from the data what they take."""

import sys
from typing import Any

import pytest
import torch
from foreign_networks import Linked
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningCLI
from torch import Tensor, nn
from torchvision.models import VisionTransformer

import litlens


def by_function(num_classes: int, in_channels: int, width: int = 2) -> nn.Module:
    """Construct a network whose options are required."""
    return nn.Sequential(nn.Conv2d(in_channels, width, 3), nn.Flatten(), nn.Linear(36 * width, num_classes))


class OfOneSide(VisionTransformer):
    """Takes one side of a square, as torchvision's vision transformers do."""

    def __init__(self, image_size: int, num_classes: int) -> None:
        super().__init__(image_size, 4, 1, 1, 8, 8, num_classes=num_classes)
        self.conv_proj = nn.Conv2d(1, 8, 4, 4)


class Theirs(LightningModule):
    """A module without a network of its own."""

    def __init__(self, num_classes: int, image_size: tuple[int, int], scale: float = 1.0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.head = nn.Linear(image_size[0] * image_size[1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.flatten(1))


class TheirData(LightningDataModule):
    """Has class names, and nothing else."""

    class_names = ("a", "b", "c")


OURS = ["--data=litlens.DigitsDataModule", "--model=litlens.ImageClassifier"]


def model_of(args: list[str], *classes: Any) -> LightningModule:
    """The model that a command line of another project builds."""

    class TheirCLI(LightningCLI):
        def add_arguments_to_parser(self, parser: Any) -> None:
            litlens.link_data_to_model(parser)

    options: dict[str, Any] = {"auto_configure_optimizers": False}
    if not classes:
        options |= {"subclass_mode_model": True, "subclass_mode_data": True}
    quiet = ["--trainer.logger=false", "--trainer.accelerator=cpu"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["theirs.py", *args, *quiet])
        return TheirCLI(*classes, run=False, seed_everything_default=False, **options).model


@pytest.mark.parametrize(
    "network",
    ["litlens.MnistCNN", "foreign_networks.Linked", f"{__name__}.by_function", "foreign_networks.AllDefaults"],
)
def test_a_network_gets_what_it_takes(network: str) -> None:
    model = model_of([*OURS, f"--model.network={network}"])
    assert model.class_names == list("0123456789")
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_a_network_of_fixed_size_stays_as_it_is() -> None:
    network = "--model.network=foreign_networks.Unlinked"
    model = model_of([*OURS, network])
    assert model.network.features.in_channels == 3


def test_one_model_and_one_data_module() -> None:
    args = ["--model.network=foreign_networks.Linked", "--model.network.width=5"]
    model = model_of(args, litlens.ImageClassifier, litlens.DigitsDataModule)
    assert model.network.features.out_channels == 5
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("classes", [(), (Theirs, litlens.DigitsDataModule)])
def test_a_module_without_a_network(classes: Any) -> None:
    args = [] if classes else [f"--model={__name__}.Theirs", "--data=litlens.DigitsDataModule"]
    assert model_of(args, *classes)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_what_their_data_do_not_know_is_left_to_the_config() -> None:
    network = ["--model.network=foreign_networks.AllDefaults", "--model.network.num_classes=3"]
    model = model_of([f"--data={__name__}.TheirData", "--model=litlens.ImageClassifier", *network])
    assert list(model.class_names) == ["a", "b", "c"]
    assert model.network.features.in_channels == 1


def test_a_network_that_takes_one_side() -> None:
    args = [
        "--data=litlens.DigitsDataModule",
        "--model=litlens.ImageClassifier",
        f"--model.network={__name__}.OfOneSide",
    ]
    assert model_of(args)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_a_foreign_network_is_one_of_those_that_the_command_takes() -> None:
    """Both parsers are linked by the same function."""
    from litlens.cli.parser import TrainingCommand

    args = ["--data=DigitsDataModule", "--model=ImageClassifier", "--model.network=foreign_networks.Linked"]
    command = TrainingCommand(args)
    data = command.build_data()
    network = command.build(command.config.clone(), data).model.network
    assert isinstance(network, Linked)
    assert network.head.out_features == 10


def test_only_what_a_module_takes_is_in_its_hyper_parameters() -> None:
    model = model_of([f"--model={__name__}.Theirs", "--data=litlens.DigitsDataModule"])
    own = {name: value for name, value in model.hparams.items() if not name.startswith("_")}
    assert own == {"num_classes": 10, "image_size": (8, 8), "scale": 1.0}
