"""The normalization that pretrained weights need, and what is reported for data with another."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from litlens.constants import NORMALIZATIONS
from litlens.data.preprocessing import Normalize
from litlens.errors import UserError
from litlens.models.backbones import TransferNetwork
from litlens.models.networks.scratch import MnistCNN
from litlens.models.pretrained import check_normalization, weights_normalization

Wanted = str | dict[str, list[float]]


def prepared(name: str, channels: int = 3) -> Normalize:
    mean, std = ((*values,) * (channels if len(values) == 1 else 1) for values in NORMALIZATIONS[name])
    return Normalize(mean, std)


def network(wanted: Wanted | None) -> TransferNetwork:
    with torch.device("meta"):
        made = TransferNetwork(backbone="squeezenet1_1")
    if isinstance(wanted, str):
        mean, std = NORMALIZATIONS[wanted]
        wanted = {"mean": list(mean), "std": list(std)}
    made.weights_normalization = wanted
    return made


def imagenet_features() -> dict[str, list[float]]:
    found = weights_normalization("vgg16", "IMAGENET1K_FEATURES")
    assert found is not None
    return found


def test_data_that_the_weights_were_trained_with_pass() -> None:
    check_normalization(network("imagenet"), prepared("imagenet"))
    check_normalization(network(weights_normalization("resnet18", "DEFAULT")), prepared("imagenet"))
    check_normalization(network(imagenet_features()), prepared("imagenet_features"))
    check_normalization(network(None), prepared("mnist", 1))
    check_normalization(MnistCNN(), prepared("mnist", 1))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("wanted", ["half", {"mean": [0.5], "std": [0.5] * 3}, {"mean": [0.5] * 3, "std": [0.5]}])
def test_one_value_applies_to_every_channel(wanted: Wanted, channels: int) -> None:
    check_normalization(network(wanted), prepared("half", channels))
    with pytest.raises(UserError, match=r"mean \[0\.5.* set data\.normalize to half$"):
        check_normalization(network(wanted), prepared("mnist", channels))


def test_data_normalized_otherwise_are_refused_with_the_value_to_set() -> None:
    with pytest.raises(UserError, match=r"set data\.normalize to imagenet_features$") as caught:
        check_normalization(network(imagenet_features()), prepared("imagenet"))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"set data\.normalize to \{mean: \[0\.449\], std: \[0\.226\]\}$"):
        check_normalization(network("imagenet"), prepared("mnist", 1))


@pytest.mark.parametrize("with_weights", [True, False])
@pytest.mark.parametrize(
    ("normalization", "message"),
    [
        ("imagnet", "there is no preset 'imagnet'; choose from auto, null, mnist, fashion, "),
        ({"mean": [0.5]}, r"needs mean and std and nothing else, not \['mean'\]"),
        ({"mean": [0.5], "std": [0.5], "var": [0.5]}, r"not \['mean', 'std', 'var'\]"),
        ({"mean": [0.5, 0.5], "std": [0.5]}, "need 1 or 3 values each"),
    ],
)
def test_a_wrong_normalization_is_refused_when_the_network_is_built(
    normalization: Any, message: str, with_weights: bool, tmp_path: Path
) -> None:
    torch.save(torchvision.models.squeezenet1_1().state_dict(), tmp_path / "w.pth")
    weights = str(tmp_path / "w.pth") if with_weights else None
    with pytest.raises(UserError, match=f"^network.normalization: .*{message}") as caught:
        TransferNetwork(backbone="squeezenet1_1", weights=weights, normalization=normalization)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("nothing", [None, "None"])
def test_null_accepts_any_normalization(nothing: str | None, tmp_path: Path) -> None:
    torch.save(torchvision.models.squeezenet1_1().state_dict(), tmp_path / "w.pth")
    made = TransferNetwork(backbone="squeezenet1_1", weights=str(tmp_path / "w.pth"), normalization=nothing)
    assert made.weights_normalization is None
