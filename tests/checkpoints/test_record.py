"""The record that rebuilds a classifier: complete, checked, and safe whatever it names."""

import pickle
import random
import subprocess
from pathlib import Path
from typing import Any

import foreign_networks
import numpy as np
import pytest
import torch
import torchvision
from foreign_networks import Linked, Random, Tempered, WithItem
from torch import nn

from litlens.checkpoints.record import check, describe, rebuild
from litlens.errors import UserError
from litlens.models.backbones import TransferNetwork
from litlens.models.classifier import ImageClassifier
from litlens.models.constructor_arguments import keep_arguments
from litlens.models.networks.building_blocks import Network
from litlens.models.networks.mlp import MLP
from litlens.models.transfer import TransferClassifier

NAMES = ["a", "b", "c"]
DATA = {"num_classes": 3, "in_channels": 3, "image_size": (8, 8)}


class Flexible(Network):
    """A subclass of litlens' base with what plain values do not hold."""

    def __init__(self, act: type[nn.Module], last: nn.Module, **kwargs: Any) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), act(), nn.Linear(192, kwargs["width"]), nn.Linear(8, 3), last)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


class Lazy(Network):
    """Learns the number of its inputs from the first batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))


def through_a_file(record: dict[str, Any], folder: Path) -> Any:
    torch.save(record, folder / "record.pt")
    return torch.load(folder / "record.pt", weights_only=True)


def kept(network: nn.Module, arguments: dict[str, Any], builder: str | None = None) -> nn.Module:
    keep_arguments(network, arguments, builder=builder)
    return network


@pytest.mark.parametrize(
    "made",
    [
        lambda: ImageClassifier(MLP(**DATA, widths=[5]), NAMES, l2=0.1, channels_last=False),
        lambda: Tempered(MLP(**DATA), class_names=NAMES, temperature=5.0, loss="mse"),
        lambda: ImageClassifier(Flexible(nn.SELU, last=nn.Softplus(beta=2), width=8), NAMES),
        lambda: ImageClassifier(kept(Linked(**DATA), DATA), NAMES),
        lambda: ImageClassifier(kept(WithItem(**DATA), DATA), NAMES),
        lambda: ImageClassifier(
            kept(torchvision.models.resnet18(num_classes=3), {"num_classes": 3}, "torchvision.models.resnet18"), NAMES
        ),
        lambda: TransferClassifier(TransferNetwork(**{**DATA, "image_size": (32, 32)}), NAMES, strategy="finetune"),
    ],
)
def test_a_classifier_is_rebuilt_from_plain_values(made: Any, tmp_path: Path) -> None:
    classifier = made().eval()
    again = rebuild(through_a_file(check(classifier), tmp_path)).eval()
    assert type(again) is type(classifier)
    again.load_state_dict(classifier.state_dict())
    images = torch.rand(2, 3, 32, 32) if isinstance(classifier, TransferClassifier) else torch.rand(2, 3, 8, 8)
    assert torch.equal(again(images), classifier(images))
    options = ("loss", "l2", "channels_last", "temperature", "strategy")
    assert [getattr(again, key, None) for key in options] == [getattr(classifier, key, None) for key in options]


def test_a_lazy_network_is_checked_by_its_keys() -> None:
    assert "undescribed" not in check(ImageClassifier(Lazy(), NAMES))


@pytest.mark.parametrize("network", [lambda: WithItem(**DATA), lambda: MLP(**DATA)])
def test_the_check_draws_no_random_numbers(network: Any) -> None:
    classifier = ImageClassifier(kept(network(), DATA), NAMES)
    states = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())
    assert "undescribed" not in check(classifier)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]


def test_a_network_that_is_rebuilt_differently_is_undescribed_and_loaded_with_one() -> None:
    network = kept(Random(**DATA), DATA)
    record = check(Tempered(network, NAMES, temperature=5.0))
    assert "differs in network.features.weight" in record["undescribed"]["network"]
    with pytest.raises(UserError, match="network="):
        rebuild(record)
    again = rebuild(record, network)
    assert again.network is network
    assert again.temperature == 5.0


def test_an_option_that_cannot_be_described_is_never_lost() -> None:
    classifier = Tempered(MLP(**DATA), NAMES, temperature=object())
    record = describe(classifier)
    assert record["undescribed"] == {"temperature": "model.temperature is a object, which is not a plain value"}
    with pytest.raises(UserError, match=r"model\.temperature"):
        rebuild(record, MLP(**DATA))
    assert rebuild(record, classifier) is classifier


def recorded(class_path: str, **arguments: Any) -> dict[str, Any]:
    network = {"class_path": class_path, "init_args": arguments}
    return {
        "class_path": "litlens.models.classifier.ImageClassifier",
        "init_args": {"network": network, "class_names": NAMES},
    }


@pytest.mark.parametrize(
    ("class_path", "arguments"),
    [
        ("subprocess.Popen", {"args": ["touch", "ran"]}),
        ("torch.hub.load", {"repo_or_dir": "somebody/code", "model": "net"}),
        ("torch.load", {"f": "x"}),
        ("torchvision.datasets.utils.download_url", {"url": "http://x", "root": "."}),
        ("torchvision.models.get_model", {"name": "resnet18"}),
        ("torch.nn.Sequential.forward", {}),
        ("timm.create_model", {"model_name": "hf-hub:somebody/net"}),
        ("timm.create_model", {"model_name": "local-dir:/tmp"}),
        ("timm.models.load_checkpoint", {"model": "x", "checkpoint_path": "y"}),
        ("litlens.models.constructor_arguments.describe", {}),
    ],
)
def test_only_networks_and_their_builders_are_called(
    class_path: str, arguments: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for record in (
        recorded(class_path, **arguments),
        recorded("torch.nn.Flatten", start_dim={"class_path": class_path, "init_args": arguments}),
        {**recorded("torch.nn.Flatten"), "class_path": class_path},
    ):
        with pytest.raises(UserError, match="the checkpoint names"):
            rebuild(record, trust=["subprocess"])
    assert not list(tmp_path.iterdir())
    assert subprocess.Popen  # imported already, so trusted: it is refused as what it is


@pytest.mark.parametrize(
    ("class_path", "arguments"),
    [
        ("torchvision.models.resnet18", {"weights": "DEFAULT"}),
        ("torchvision.models.resnet18", {"pretrained": True}),
        ("torchvision.models.resnet.resnet18", {"weights": "IMAGENET1K_V1"}),
        ("litlens.models.backbones.TransferNetwork", {"weights": "DEFAULT", "image_size": [32, 32]}),
        ("litlens.models.backbones.TransferNetwork", {"weights": "DEFAULT", "backbone": "timm/test_resnet"}),
        ("timm.create_model", {"model_name": "test_resnet", "pretrained": True}),
        (
            "timm.create_model",
            {"model_name": "test_resnet", "pretrained": 1, "pretrained_cfg_overlay": {"url": "http://x/y.npz"}},
        ),
    ],
)
def test_nothing_is_downloaded(class_path: str, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fetched(*_args: Any, **_kwargs: Any) -> None:
        raise AssertionError("fetched")

    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", fetched, raising=False)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fetched)
    monkeypatch.setattr("urllib.request.urlopen", fetched)
    if "timm" in f"{class_path}{arguments}":
        pytest.importorskip("timm")
        monkeypatch.setattr("timm.models._builder.load_pretrained", fetched)
    rebuild(recorded(class_path, **arguments, num_classes=3))


@pytest.mark.parametrize(
    "made", [lambda: ImageClassifier(MLP(**DATA), NAMES), lambda: Tempered(foreign_networks.Unlinked(), NAMES)]
)
def test_a_classifier_with_its_default_optimizer_can_be_pickled(made: Any) -> None:
    classifier = made()
    again = pickle.loads(pickle.dumps(classifier))
    (weight,) = [torch.nn.Parameter(torch.zeros(1))]
    assert again.optimizer([weight]).param_groups[0]["lr"] == 0.001
    assert describe(again) == describe(classifier)
