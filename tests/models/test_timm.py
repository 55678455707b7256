"""TransferNetwork on networks of timm: features, weights, preprocessing and maps against timm's own."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from litlens.checkpoints.record import check, rebuild
from litlens.errors import UserError
from litlens.explain.cam import cam
from litlens.models.backbones import Features, FrozenLayers, TransferNetwork
from litlens.models.pretrained import TIMM
from litlens.models.transfer import TransferClassifier

timm = pytest.importorskip("timm")
safetensors = pytest.importorskip("safetensors.torch")
# Each with a layer in its middle, and one whose map explains it.
FAMILIES = {
    "test_convnext": ("stages.2", "base.stages.3"),
    "test_vit": ("blocks.3", "base.blocks.5.norm1"),
    "test_efficientnet": ("blocks.3", "base.bn2"),
    "test_resnet": ("layer3", "base.layer4"),
    "mobilenetv3_small_050": ("blocks.3", "base.blocks.4"),
}
SIZE = (64, 64)


def images(*size: int) -> Tensor:
    return torch.randn(2, 3, *(size or SIZE), generator=torch.Generator().manual_seed(0))


def original(name: str, **options: Any) -> nn.Module:
    torch.manual_seed(1)
    if timm.get_pretrained_cfg(name).fixed_input_size:
        options.setdefault("img_size", SIZE)
    return timm.create_model(name, **options).eval()


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[dict[str, Any]], str]:
    def save(state: dict[str, Any]) -> str:
        torch.save(state, tmp_path / "weights.pth")
        return str(tmp_path / "weights.pth")

    return save


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_loaded_frozen_cached_explained_and_rebuilt(name: str, saved: Callable[[Any], str]) -> None:
    middle, explained = FAMILIES[name]
    made = original(name)
    network = TransferNetwork(3, image_size=SIZE, backbone=TIMM + name, weights=saved(made.state_dict())).eval()
    configuration = timm.data.resolve_model_data_config(made)
    assert network.weights_normalization == {key: list(configuration[key]) for key in ("mean", "std")}

    top = len(network.layer_names)
    cached = FrozenLayers(network, top)(images())
    with torch.no_grad():
        expected = made.forward_head(made.forward_features(images()), pre_logits=True)
    torch.testing.assert_close(cached, expected)
    torch.testing.assert_close(network(Features(cached, top)), network(images()))
    assert FrozenLayers(network, top).key() == FrozenLayers(network, top).key()

    for index, trained in ((top, {"head"}), (network.layer_index(middle), {"base", "head"})):
        network.freeze_below(index)
        assert {key.partition(".")[0] for key, weight in network.named_parameters() if weight.requires_grad} == trained
    first = next(key for key, weight in network.named_parameters() if weight.requires_grad)
    assert first.startswith(f"base.{middle}.")

    assert cam(network, images()).maps.std() > 0
    assert cam(network, images(), layer=explained).maps.std() > 0

    classifier = TransferClassifier(network, ["a", "b", "c"], strategy="partial", train_from=middle)
    record = check(classifier)
    assert "undescribed" not in record
    with torch.device("meta"):
        again = rebuild(record)
    assert again.state_dict().keys() == classifier.state_dict().keys()


def test_position_embeddings_are_resized_as_in_timm_and_the_classifier_is_left_out(tmp_path: Path) -> None:
    """From the format of timm's downloads, with the classifier of their 1,000 classes."""
    state = original("test_vit", img_size=160).state_dict()
    assert state["head.weight"].shape[0] == 1000
    safetensors.save_file(state, tmp_path / "model.safetensors")
    network = TransferNetwork(
        image_size=(64, 96), backbone="timm/test_vit", weights=str(tmp_path / "model.safetensors")
    )
    own = network.base.state_dict()
    expected = timm.layers.resample_abs_pos_embed(state["pos_embed"], (4, 6), num_prefix_tokens=1)
    torch.testing.assert_close(own["pos_embed"], expected)
    assert own.keys() == state.keys() - {"head.weight", "head.bias"}
    assert all(torch.equal(own[key], state[key]) for key in own if key != "pos_embed")
    assert network(images(64, 96)).shape == (2, 2)
    assert "state_dict" not in network.base.pretrained_cfg


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The empty cache of Hugging Face's client, which asks no server."""
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_default_is_timms_own_download(offline: Path) -> None:
    state = original("test_vit", img_size=160).state_dict()
    folder = offline / "models--timm--test_vit.r160_in1k"
    (folder / "snapshots" / "0").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0")
    safetensors.save_file(state, folder / "snapshots" / "0" / "model.safetensors")
    for backbone in ("timm/test_vit", "timm/test_vit.r160_in1k"):
        network = TransferNetwork(image_size=SIZE, backbone=backbone, weights="DEFAULT")
        assert torch.equal(network.base.blocks[5].attn.qkv.weight, state["blocks.5.attn.qkv.weight"])
        assert network.weights_normalization == {"mean": [0.5] * 3, "std": [0.5] * 3}


@pytest.mark.usefixtures("offline")
def test_weights_that_cannot_be_downloaded_are_one_line() -> None:
    with pytest.raises(
        UserError, match=r"^weights: DEFAULT of timm/test_vit cannot be loaded .*; give a file$"
    ) as failure:
        TransferNetwork(image_size=SIZE, backbone="timm/test_vit", weights="DEFAULT")
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("timm/test_resnett", "timm has no network 'test_resnett'; did you mean 'test_resnet'"),
        ("timm/test_vit.r224", r"timm has no network 'test_vit.r224'; did you mean 'test_vit\.r160_in1k'"),
        ("timm/hf-hub:somebody/net", "timm has no network 'hf-hub:somebody/net'"),
        ("timm/local-dir:/tmp", "timm has no network 'local-dir:/tmp'"),
    ],
)
def test_a_name_that_timm_does_not_have_is_one_line(backbone: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^backbone: {message}"):
        TransferNetwork(backbone=backbone, weights="DEFAULT")


def test_without_timm_a_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r'backbone: timm/test_vit needs timm: pip install "litlens\[timm\]"'):
        TransferNetwork(backbone="timm/test_vit")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: {key: state[key] for key in state if key != "norm.bias"}, "does not fit .* Missing .*norm.bias"),
        (lambda state: {**state, "more": torch.zeros(2)}, "does not fit timm/test_vit: .* Unexpected .*more"),
        (
            lambda state: {**state, "norm.bias": torch.zeros(3)},
            "does not fit timm/test_vit: .* size mismatch",
        ),
        (lambda state: {key: state[key] for key in ("head.weight", "head.bias")}, "no weights below the classifier"),
        (lambda state: {}, "no weights below the classifier"),
        (lambda state: {"model": state}, "model in .* is a .*ict and not a tensor"),
    ],
)
def test_weights_of_another_network_are_one_line(
    change: Callable[[dict[str, Any]], Any], message: str, saved: Callable[[Any], str]
) -> None:
    weights = saved(change(original("test_vit").state_dict()))
    with pytest.raises(UserError, match=f"^weights: .*{message}") as failure:
        TransferNetwork(image_size=SIZE, backbone="timm/test_vit", weights=weights)
    assert "\n" not in str(failure.value)


def test_a_network_of_patches_that_an_image_does_not_fit_names_its_own_size() -> None:
    with pytest.raises(UserError, match=r"images of 100x100 do not fit .*: set image_size 160x160 on the data"):
        TransferNetwork(image_size=(100, 100), backbone="timm/test_vit")
    assert timm.get_pretrained_cfg("test_vit").input_size == (3, 160, 160)


def test_a_missing_or_damaged_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no file a.pth; DEFAULT downloads .*test_vit\.r160_in1k"):
        TransferNetwork(image_size=SIZE, backbone="timm/test_vit", weights="a.pth")
    (tmp_path / "a.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{broken}")
    with pytest.raises(UserError, match=r"a\.safetensors is damaged or not a weights file"):
        TransferNetwork(image_size=SIZE, backbone="timm/test_vit", weights=str(tmp_path / "a.safetensors"))
