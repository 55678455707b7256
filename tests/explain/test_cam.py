"""CAM values against the grad-cam package, and the network after a call against the network before it."""

import copy
import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_grad_cam import (
    AblationCAM,
    EigenCAM,
    GradCAM,
    GradCAMPlusPlus,
    LayerCAM,
    ScoreCAM,
    ShapleyCAM,
)
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from torchvision.models import resnet18

from litlens.errors import UserError
from litlens.explain.cam import METHODS, cam
from litlens.explain.map_layers import NoMapError

REFERENCES = {
    "gradcam": GradCAM,
    "gradcam++": GradCAMPlusPlus,
    "eigencam": EigenCAM,
    "layercam": LayerCAM,
    "scorecam": ScoreCAM,
    "ablationcam": AblationCAM,
    "shapleycam": ShapleyCAM,
}


def reference(network: nn.Module, images: Tensor, target: list[int], layer: str, method: str = "gradcam") -> Tensor:
    """The package's own maps of a copy with every parameter trainable, as the package wants it."""
    network = copy.deepcopy(network).requires_grad_(True)
    maker = REFERENCES[method](network, [network.get_submodule(layer)])
    return torch.from_numpy(maker(images.clone(), [ClassifierOutputTarget(number) for number in target]))


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(0)
    return resnet18(num_classes=10)


@pytest.mark.parametrize("layer", ["layer4.1", "layer3.0.bn1", "layer2", "layer4.1.relu"])
def test_gradcam_equals_the_package_on_resnet18(resnet: nn.Module, layer: str) -> None:
    images = torch.randn(3, 3, 96, 80, generator=torch.Generator().manual_seed(0))
    result = cam(resnet, images, target=[3, 1, 3], layer=layer)
    torch.testing.assert_close(result.maps, reference(resnet, images, [3, 1, 3], layer), rtol=0, atol=1e-6)
    assert result.maps.shape == (3, 96, 80)
    assert result.target.tolist() == [3, 1, 3]
    with torch.no_grad():
        assert torch.equal(result.predicted, copy.deepcopy(resnet).eval()(images).argmax(1))


# features.0 and .7 are overwritten by the in-place ReLU after them.
@pytest.mark.parametrize("layer", [f"features.{number}" for number in range(9)])
def test_gradcam_equals_the_package_with_inplace_relus(inplace_net: Any, images: Tensor, layer: str) -> None:
    result = cam(inplace_net, images, target=2, layer=layer)
    torch.testing.assert_close(result.maps, reference(inplace_net, images, [2] * 3, layer), rtol=0, atol=1e-6)


def test_gradcam_of_a_linear_head_by_hand() -> None:
    """Behind a global average, the gradient of a class is its row of the head over the number of places."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    images = torch.randn(2, 1, 6, 6)
    result = cam(network, images, target=[0, 2])
    with torch.no_grad():
        maps = network[0](images)
        weights = network[3].weight[[0, 2]] / 16
        raw = torch.einsum("bc,bchw->bhw", weights, maps).relu()
    assert result.layer == "0"
    torch.testing.assert_close(result.maxima, raw.amax((1, 2)))
    corner = (raw[:, 0, 0] - raw.amin((1, 2))) / (raw.amax((1, 2)) - raw.amin((1, 2)))
    torch.testing.assert_close(result.maps[:, 0, 0], corner, atol=1e-4, rtol=1e-4)


def test_a_class_without_support_has_an_empty_map() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
    nn.init.constant_(network[4].weight, -1)
    result = cam(network, torch.randn(2, 1, 8, 8), target=1)
    assert result.maxima.tolist() == [0, 0]
    assert not result.maps.any()


@pytest.mark.parametrize("method", [method for method in REFERENCES if method != "gradcam"])
@pytest.mark.parametrize("frozen", [False, True])
def test_other_methods_equal_the_package(
    inplace_net: Any,
    images: Tensor,
    fingerprint: Callable[[nn.Module], dict[str, Any]],
    method: str,
    frozen: bool,
) -> None:
    inplace_net.requires_grad_(not frozen)
    before = fingerprint(inplace_net)
    result = cam(inplace_net, images, target=[1, 0, 4], layer="features.8", method=method)
    assert fingerprint(inplace_net) == before
    expected = reference(inplace_net, images, [1, 0, 4], "features.8", method)
    torch.testing.assert_close(result.maps, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_no_side_effect(
    inplace_net: Any,
    images: Tensor,
    fingerprint: Callable[[nn.Module], dict[str, Any]],
    method: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    inplace_net.train()
    inplace_net.features[4].eval()  # a frozen BatchNorm among layers that train
    inplace_net.features[0].requires_grad_(False)
    nn.functional.cross_entropy(inplace_net(images), torch.tensor([0, 1, 2])).backward()
    untouched_images = images.clone()
    cam(inplace_net, images[:1], method=method)  # the package, imported, may keep something once
    before = fingerprint(inplace_net)
    tensors = _living_tensors()
    result = cam(inplace_net, images, method=method)
    assert fingerprint(inplace_net) == before
    assert torch.equal(images, untouched_images)
    assert images.grad is None
    assert result.maps.shape == (3, 24, 20)
    assert 0 <= result.maps.min() <= result.maps.max() <= 1
    assert result.maxima.shape == (3,)
    assert not any(value.requires_grad for value in result[:4])
    del result
    assert _living_tensors() <= tensors
    assert capfd.readouterr() == ("", "")


def _living_tensors() -> int:
    gc.collect()
    return sum(1 for thing in gc.get_objects() if type(thing) is Tensor)


@pytest.mark.parametrize(("method", "fails_at"), [("gradcam", 1), ("layercam", 1), ("scorecam", 2), ("ablationcam", 3)])
def test_a_failure_has_no_side_effect(
    inplace_net: Any,
    images: Tensor,
    fingerprint: Callable[[nn.Module], dict[str, Any]],
    method: str,
    fails_at: int,
) -> None:
    calls = 0

    def fail(_module: nn.Module, _inputs: object) -> None:
        nonlocal calls
        calls += 1
        if calls == fails_at:
            raise RuntimeError("in the middle")

    inplace_net.head[0].register_forward_pre_hook(fail)
    before = fingerprint(inplace_net)
    with pytest.raises(RuntimeError, match="in the middle"):
        cam(inplace_net, images, layer="features.7", method=method)
    assert fingerprint(inplace_net) == before


@pytest.mark.parametrize(
    "mode",
    [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)],
    ids=["no_grad", "inference_mode", "autocast"],
)
@pytest.mark.parametrize("method", ["gradcam", "layercam"])
def test_values_are_the_same_in_any_mode(
    inplace_net: Any,
    images: Tensor,
    fingerprint: Callable[[nn.Module], dict[str, Any]],
    mode: Callable[[], torch.no_grad],
    method: str,
) -> None:
    expected = cam(inplace_net, images, method=method)
    with mode():
        before = fingerprint(inplace_net)
        made_here = images + 0  # under inference_mode, an inference tensor
        result = cam(inplace_net, made_here, method=method)
        assert fingerprint(inplace_net) == before
    for value, value_expected in zip(result[:4], expected[:4], strict=True):
        assert torch.equal(value, value_expected)


@pytest.mark.parametrize("method", ["gradcam", "layercam", "gradcam++"])
def test_a_frozen_network_has_the_same_maps(inplace_net: Any, images: Tensor, method: str) -> None:
    expected = cam(inplace_net, images, method=method)
    inplace_net.features.requires_grad_(False)
    assert torch.equal(cam(inplace_net, images, method=method).maps, expected.maps)
    inplace_net.requires_grad_(False)
    assert torch.equal(cam(inplace_net, images, method=method).maps, expected.maps)


def test_a_base_that_runs_under_no_grad_has_the_same_map(inplace_net: Any, images: Tensor) -> None:
    class NoGradBase(type(inplace_net)):
        def forward(self, images: Tensor) -> Tensor:
            with torch.no_grad():
                maps = self.features(images)
            logits: Tensor = self.head(maps)
            return logits

    network = NoGradBase()
    network.load_state_dict(inplace_net.state_dict())
    for layer in ("auto", "features.3"):
        assert torch.equal(cam(network, images, layer=layer).maps, cam(inplace_net, images, layer=layer).maps)


def test_bf16_weights_have_the_maps_of_float32(inplace_net: Any, images: Tensor) -> None:
    expected = cam(inplace_net, images, target=3, layer="features.8")
    result = cam(inplace_net.to(torch.bfloat16), images, target=3, layer="features.8")
    assert result.maps.dtype == result.maxima.dtype == torch.float32
    assert expected.maxima.min() > 0
    # bf16 rounds at the third digit.
    torch.testing.assert_close(result.maps, expected.maps, rtol=0, atol=0.02)
    torch.testing.assert_close(result.maxima, expected.maxima, rtol=0.02, atol=0)


def test_no_parameter_gradient_is_computed(inplace_net: Any, images: Tensor) -> None:
    for parameter in inplace_net.parameters():
        parameter.register_hook(lambda _gradient: pytest.fail("a gradient of a parameter was computed"))
    cam(inplace_net, images)
    cam(inplace_net, images, method="layercam")


def test_trunk_runs_without_a_graph(inplace_net: Any, images: Tensor) -> None:
    graphs: dict[str, bool] = {}

    def note(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda _module, _inputs, output: graphs.update({name: output.requires_grad})

    for number, layer in enumerate(inplace_net.features):
        layer.register_forward_hook(note(str(number)))
    cam(inplace_net, images, layer="features.6")
    assert graphs == {str(number): number > 6 for number in range(9)}


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 20, 4)),
            "Sequential has no layer with a map larger than 1×1",
        ),
        (
            nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(147, 4)),
            "for images of 24×20",
        ),
    ],
)
def test_a_network_without_a_map_is_refused_in_one_line(network: nn.Module, message: str, images: Tensor) -> None:
    with pytest.raises(NoMapError, match=message) as error:
        cam(network, images)
    assert isinstance(error.value, UserError)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "grad-cam"}, "CAM: no method 'grad-cam'; did you mean 'gradcam'"),
        ({"layer": "feature.7"}, r"InplaceNet has no layer 'feature.7'; did you mean 'features.7'"),
        ({"layer": 99}, "has no layer 99: it has layers 0 to 12"),
        ({"layer": "head.3"}, r"output \(3, 5\) cannot be read as a map"),
        ({"target": 5}, "must be from 0 to 4"),
        ({"target": [0, 1]}, r"target has the shape \(2,\), but there are 3 images"),
    ],
)
def test_mistakes_are_refused_in_one_line(
    inplace_net: Any, images: Tensor, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        cam(inplace_net, images, **arguments)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"\(B, C, H, W\)"):
        cam(inplace_net, images[0])


class BesideNet(nn.Module):
    """Its last two maps are not on the way to the logits, which come from the one before."""

    def __init__(self, inplace_net: Any) -> None:
        super().__init__()
        self.features, self.head = inplace_net.features, inplace_net.head
        self.aside = nn.Sequential(nn.Conv2d(16, 4, 1), nn.Conv2d(4, 2, 1))
        self.unused = nn.Conv2d(16, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.features(images.relu_())  # into its own input
        logits: Tensor = self.head(maps)
        self.aside(maps)
        return logits


def test_a_layer_that_the_logits_do_not_depend_on(inplace_net: Any, images: Tensor) -> None:
    with pytest.raises(UserError, match="logits do not depend on this layer"):
        cam(BesideNet(inplace_net), images, layer="aside")
    with pytest.raises(UserError, match="do not pass through this layer"):
        cam(BesideNet(inplace_net), images, layer="unused")


@pytest.mark.parametrize("method", ["gradcam", "layercam", "eigencam", "scorecam"])
def test_auto_passes_over_layers_beside_the_way(
    inplace_net: Any, images: Tensor, fingerprint: Callable[[nn.Module], dict[str, Any]], method: str
) -> None:
    network = BesideNet(inplace_net)
    before = fingerprint(network)
    result = cam(network, images, method=method)
    assert fingerprint(network) == before
    assert result.layer == "head.0"
    assert torch.equal(result.maps, cam(network, images, layer="head.0", method=method).maps)


@pytest.mark.parametrize("method", ["gradcam", "layercam"])
def test_a_network_whose_maps_are_all_beside_the_way_has_none(images: Tensor, method: str) -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.aside, self.head = nn.Conv2d(3, 2, 3), nn.Linear(3 * 24 * 20, 4)

        def forward(self, images: Tensor) -> Tensor:
            self.aside(images)
            logits: Tensor = self.head(images.flatten(1))
            return logits

    with pytest.raises(NoMapError, match="Flat has no layer with a map"):
        cam(Flat(), images, method=method)


def test_randomcam_is_the_same_each_time(inplace_net: Any, images: Tensor) -> None:
    first = cam(inplace_net, images, method="randomcam")
    np.random.random(3)
    assert torch.equal(first.maps, cam(inplace_net, images, method="randomcam").maps)


def test_a_layer_that_was_found_is_searched_again_only_after_a_change() -> None:
    class Counting(nn.Sequential):
        calls = 0

        def forward(self, images: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(images)  # type: ignore[no-any-return]

    network = Counting(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.Flatten(), nn.Linear(72, 2))
    images = torch.randn(2, 1, 10, 10, generator=torch.Generator().manual_seed(0))
    found = [(cam(network, images).layer, network.calls) for _ in range(2)]
    assert found == [("2", 2), ("2", 3)]
    with torch.no_grad():
        network[2].weight.zero_()  # now its maps are constant
    assert (cam(network, images).layer, network.calls) == ("1", 5)
