"""TransferNetwork: torchvision's networks with a new head, split at any layer, and every unsuitable weights file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from litlens.errors import UserError
from litlens.explain.cam import cam
from litlens.models.backbones import Features, FrozenLayers, TransferNetwork
from litlens.models.pretrained import imagenet_network, load_weights


def images(size: int = 64, channels: int = 3) -> Tensor:
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))


def count(module: nn.Module, *, trained: bool = False) -> int:
    return sum(weight.numel() for weight in module.parameters() if weight.requires_grad or not trained)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return torchvision.models.squeezenet1_1().state_dict()


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[Any], str]:
    def save(values: Any) -> str:
        torch.save(values, tmp_path / "weights.pth")
        return str(tmp_path / "weights.pth")

    return save


def test_vgg16_with_the_large_head_has_the_published_number_of_weights() -> None:
    with torch.device("meta"):
        network = TransferNetwork(
            num_classes=4, image_size=(150, 150), backbone="vgg16", head=[4096, 2048, 1024], dropout=0.5, pool="none"
        )
    assert count(network) == 58_766_148
    network.freeze_below(network.layer_index("head"))
    assert count(network, trained=True) == 44_051_460
    assert count(network) - count(network, trained=True) == 14_714_688


def test_resnet18_with_one_linear_layer_has_torchvisions_fc() -> None:
    network = TransferNetwork(num_classes=2, backbone="resnet18")
    assert count(network.head) == 1026
    assert count(network) == count(torchvision.models.resnet18(num_classes=2))


@pytest.mark.parametrize(
    ("backbone", "cuttable"),
    [
        ("alexnet", True),
        ("convnext_tiny", True),
        ("efficientnet_b0", True),
        ("efficientnet_v2_s", True),
        ("mnasnet0_5", True),
        ("mobilenet_v2", True),
        ("mobilenet_v3_small", True),
        ("regnet_x_400mf", True),
        ("regnet_y_400mf", True),
        ("resnet18", True),
        ("resnet50", True),
        ("resnext50_32x4d", True),
        ("shufflenet_v2_x0_5", True),
        ("squeezenet1_1", True),
        ("swin_t", True),
        ("swin_v2_t", True),
        ("vgg11", True),
        ("wide_resnet50_2", True),
        ("densenet121", False),
        ("vit_b_32", False),
    ],
)
def test_the_output_of_a_base_is_the_input_of_torchvisions_classifier(backbone: str, cuttable: bool) -> None:
    torch.manual_seed(0)
    network = TransferNetwork(num_classes=3, image_size=(64, 64), backbone=backbone, pool="none").eval()
    torch.manual_seed(0)
    options = {"image_size": 64} if backbone == "vit_b_32" else {}
    original = torchvision.models.get_model(backbone, weights=None, **options).eval()
    assert network.can_be_split is cuttable
    given: list[Tensor] = []
    original._modules[list(original._modules)[-1]].register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))  # type: ignore[union-attr]
    with torch.no_grad():
        assert network(images()).shape == (2, 3)
        original(images())
        last = network.up_to(len(network.layer_names), images()).values
    expected = given[0].flatten(1)
    if last.shape != expected.shape:  # pooled by a layer between base and classifier
        pooled = nn.AdaptiveAvgPool2d({"alexnet": 6, "vgg11": 7}.get(backbone, 1))
        side = {"alexnet": 1}.get(backbone, 2)
        last = pooled(last.unflatten(1, (-1, side, side))).flatten(1)
    torch.testing.assert_close(last, expected)


@pytest.mark.parametrize(
    ("backbone", "size"), [("vit_b_32", 64), ("vit_b_32", 384), ("vit_b_16", 96), ("maxvit_t", 224), ("maxvit_t", 448)]
)
def test_transformers_take_every_size_that_they_divide(backbone: str, size: int) -> None:
    with torch.device("meta"):
        network = TransferNetwork(num_classes=3, image_size=(size, size), backbone=backbone)
        assert network(torch.empty(2, 3, size, size)).shape == (2, 3)


@pytest.mark.parametrize(
    ("backbone", "size", "message"),
    [
        ("vit_b_32", (100, 100), r"multiples of 32, not 100x100; set it to \[96, 96\]"),
        ("vit_b_16", (64, 96), r"multiples of 16, not 64x96; set it to \[64, 64\]"),
        ("maxvit_t", (384, 384), r"multiples of 224, not 384x384; set it to \[448, 448\]"),
    ],
)
def test_a_size_that_a_transformer_cannot_divide_is_refused(backbone: str, size: tuple[int, int], message: str) -> None:
    with pytest.raises(UserError, match=f"^data.image_size: {backbone} takes square images .* {message}"):
        TransferNetwork(image_size=size, backbone=backbone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_position_embeddings_are_interpolated_as_in_torchvision(
    dtype: torch.dtype, saved: Callable[[Any], str]
) -> None:
    def vit(size: int) -> VisionTransformer:
        torch.manual_seed(size)
        return VisionTransformer(size, patch_size=32, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=16)

    trained = {name: value.to(dtype) for name, value in vit(224).state_dict().items()}
    network = vit(96)
    load_weights(network, "vit_b_32", saved(trained))
    expected = interpolate_embeddings(96, 32, {name: value.float() for name, value in trained.items()})
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, expected[name])


@pytest.mark.parametrize(("backbone", "size"), [("googlenet", 64), ("inception_v3", 96)])
def test_networks_with_auxiliary_classifiers_train_and_are_rebuilt_and_explained(
    backbone: str, size: int, saved: Callable[[Any], str]
) -> None:
    torch.manual_seed(0)
    original = torchvision.models.get_model(backbone, weights=None, init_weights=False, transform_input=True)
    network = TransferNetwork(3, image_size=(size, size), backbone=backbone, weights=saved(original.state_dict()))
    given: list[Tensor] = []
    original.fc.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    with torch.no_grad():
        original.eval()(images(size))
        features = network.eval().up_to(len(network.layer_names), images(size)).values
    torch.testing.assert_close(features, given[0])

    nn.functional.cross_entropy(network.train()(images(size)), torch.tensor([0, 2])).backward()
    rebuilt = TransferNetwork(**network.arguments)
    rebuilt.load_state_dict(network.state_dict())
    torch.testing.assert_close(rebuilt.eval()(images(size)), network.eval()(images(size)))
    assert cam(network, images(size)).maps.std() > 0


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v2", "squeezenet1_1"])
def test_a_network_split_at_any_layer_computes_the_same(backbone: str) -> None:
    network = TransferNetwork(image_size=(64, 64), backbone=backbone, head=[8]).eval()
    complete = network(images())
    for index in (1, len(network.layer_names) // 2, len(network.layer_names)):
        cached = FrozenLayers(network, index)(images())
        torch.testing.assert_close(network(Features(cached, index)), complete)


def test_layers_are_found_by_their_names() -> None:
    with torch.device("meta"):
        vgg = TransferNetwork(backbone="vgg16")
        mobile = TransferNetwork(backbone="mobilenet_v2")
        resnet = TransferNetwork(backbone="resnet18")
    convolutions = [name for name, layer in vgg.features.named_children() if isinstance(layer, nn.Conv2d)]
    names = [f"block{b}_conv{c}" for b, n in enumerate([2, 2, 3, 3, 3], 1) for c in range(1, n + 1)]
    assert [vgg.layer_names[vgg.layer_index(name)] for name in names] == [f"features.{n}" for n in convolutions]
    assert mobile.layer_names[mobile.layer_index("features.17")] == "features.17"
    assert resnet.layer_names[resnet.layer_index("layer4")] == "layer4.0"
    with pytest.raises(UserError, match=r"has no layer 'layer5'; did you mean 'layer4"):
        resnet.layer_index("layer5")


def test_gray_images_become_three_channels() -> None:
    network = TransferNetwork(in_channels=1, image_size=(64, 64), backbone="squeezenet1_1").eval()
    gray = images(channels=1)
    torch.testing.assert_close(network(gray), network(gray.expand(-1, 3, -1, -1)))


def test_only_the_layers_below_are_frozen() -> None:
    network = TransferNetwork(image_size=(64, 64), backbone="resnet18").train()
    network.freeze_below(network.layer_index("layer3"))
    for name, module in network.named_modules():
        if name and name != "pool":
            trains = name.startswith(("layer3", "layer4", "head"))
            assert module.training is trains, name
            assert all(weight.requires_grad is trains for weight in module.parameters()), name


@pytest.mark.parametrize("weights", [None, "DEFAULT", "nowhere.pth"])
def test_a_misspelled_backbone_is_one_line(weights: str | None) -> None:
    with pytest.raises(UserError, match=r"no classification network 'resnet-18'; did you mean 'resnet18'"):
        TransferNetwork(backbone="resnet-18", weights=weights)


def test_an_image_that_is_too_small_is_one_line() -> None:
    with pytest.raises(UserError, match="the smallest that work are 32x32"):
        TransferNetwork(backbone="vgg11", image_size=(16, 16))


def test_half_precision_weights_of_a_base_are_loaded(state: dict[str, Tensor], saved: Callable[[Any], str]) -> None:
    base = {name: value.half() for name, value in state.items() if name.startswith("features.")}
    network = TransferNetwork(backbone="squeezenet1_1", weights=saved(base))
    for name, value in base.items():
        own = network.state_dict()[name]
        assert own.dtype == torch.float32
        assert torch.equal(own, value.float())
    assert network.arguments["weights"] is None  # rebuilt from a checkpoint, nothing is read
    assert network.weights_normalization == {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


FIRST = "features.0.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: {name: state[name] for name in state if name != FIRST},
            f"does not fit squeezenet1_1: it lacks {FIRST}; give",
        ),
        (
            lambda state: {**state, "fc.bias": torch.zeros(2)},
            "does not fit squeezenet1_1: it has the unexpected fc.bias; give",
        ),
        (lambda state: {**state, FIRST: torch.zeros(3, 3)}, rf"{FIRST} is \[3, 3\], in .* it is \[64, 3, 3, 3\]"),
        (lambda state: {**state, FIRST: nn.Linear(1, 1)}, "holds more than tensors"),
        (lambda state: {**state, FIRST: 3}, f"{FIRST} in .* is a int and not a tensor"),
        (lambda state: [1], "holds a list and not a state dict"),
        (lambda state: {**state, 0: torch.zeros(2)}, "has the key 0, which is no layer's name"),
        (
            lambda state: {name: state[name] for name in state if name != "classifier.1.bias"},
            "lacks classifier.1.bias",
        ),
    ],
)
def test_an_unsuitable_state_dict_is_one_line(
    change: Callable[[dict[str, Any]], Any], message: str, state: dict[str, Tensor], saved: Callable[[Any], str]
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        TransferNetwork(backbone="squeezenet1_1", weights=saved(change(dict(state))))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello world\n",
        b"<!DOCTYPE html>\n<html></html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 528\n",
        bytes(1000),
        b"\x80D7\xff",
        b"PK\x03\x04 no archive",
    ],
)
def test_a_file_without_weights_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"w\.pth is damaged or not a weights file.*; give a state dict") as caught:
        TransferNetwork(backbone="squeezenet1_1", weights=str(tmp_path / "w.pth"))
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_damaged(state: dict[str, Tensor], saved: Callable[[Any], str]) -> None:
    path = Path(saved(state))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UserError, match="is damaged"):
        TransferNetwork(backbone="squeezenet1_1", weights=str(path))


def test_a_missing_file_is_one_line() -> None:
    with pytest.raises(UserError, match=r"there is no file nowhere.pth, and torchvision .* it has IMAGENET1K_V1"):
        TransferNetwork(backbone="resnet18", weights="nowhere.pth")


def test_the_real_weights_name_a_dog(shared_weights: Path, shared_data: Path) -> None:
    from litlens.constants import NORMALIZATIONS
    from litlens.data.decode import read_image
    from litlens.data.preprocessing import Normalize, Preprocessing, Resize

    network, names = imagenet_network("squeezenet1_1", str(shared_weights / "squeezenet1_1_imagenet.pth"))
    mean, std = NORMALIZATIONS["imagenet"]
    prepared = Preprocessing(Resize((224, 224)), Normalize(mean, std))
    dogs = sorted((shared_data / "catdog_2k" / "dog").iterdir())[:8]
    pixels = [prepared.resize(read_image(path, channels=3)) for path in dogs]
    with torch.inference_mode():
        best = network(prepared.normalize(np.stack(pixels))).topk(5).indices
    # ImageNet's classes 151 to 268 are the breeds of dogs.
    assert names[151] == "Chihuahua"
    assert sum(bool(((row >= 151) & (row <= 268)).any()) for row in best) >= 7
    with pytest.raises(UserError, match=r"lacks classifier\.0\.weight, .* and \d+ more; give weights of a vgg16"):
        imagenet_network("vgg16", str(shared_weights / "vgg16_imagenet_features.pth"))
