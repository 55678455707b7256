"""Class activation maps: which parts of an image support a class."""

import importlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from litlens.errors import UserError, nearest
from litlens.explain.layouts import ForwardRecord, Layout
from litlens.explain.map_layers import find_layer, last_map_layers
from litlens.explain.preserve_state import at_home, plain, preserve_state

# Methods that weight the maps of one layer, each with its class in the grad-cam package; None: implemented here.
METHODS = {
    "gradcam": None,
    "gradcam++": "GradCAMPlusPlus",
    "gradcam_elementwise": "GradCAMElementWise",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
    "xgradcam": "XGradCAM",
    "eigencam": "EigenCAM",
    "eigengradcam": "EigenGradCAM",
    "segeigencam": "SegEigenCAM",
    "kpcacam": "KPCA_CAM",
    "fem": "FEM",
    "shapleycam": None,
    "scorecam": None,
    "ablationcam": None,
    "randomcam": "RandomCAM",
}

_CHUNK = 32  # images in one forward of the methods that need a forward for every channel


class CamResult(NamedTuple):
    """Class activation maps, on the images' device.

    `maps` float32 (B, H, W) in [0, 1], each scaled to its own maximum; `maxima` float32 (B,), that maximum
    before scaling (0: nothing in the layer supports the class, and the map is all zeros); `predicted` and
    `target` int64 (B,), the predicted class and the explained class; `layer`, the name of the layer.
    """

    maps: Tensor
    maxima: Tensor
    predicted: Tensor
    target: Tensor
    layer: str


def cam(
    network: nn.Module,
    images: Tensor,
    target: int | Sequence[int] | Tensor | None = None,
    layer: str | int = "auto",
    method: str = "gradcam",
) -> CamResult:
    """Compute class activation maps of images (B, C, H, W) that are normalized for the network.

    `target` is one class for all images or one for each; by default the predicted class. `layer` is a name, an
    index (see `find_layer`) or `auto`: the last layer that the logits depend on and whose map is larger than 1×1
    and not constant. Maps with channels last (Swin) and sequences of patch tokens (ViT) are read as such; see
    `Layout`. `method` is a key of `METHODS`.

    The network is unchanged: gradients, modes, hooks, random states and memory. So `cam` can be called at any time
    during training, also on a single rank. Computed in the precision of the weights, with autocast off.

    Raises NoMapError for a network without maps (an MLP), UserError for unknown names and classes, for a layer
    whose channel axis cannot be determined, and for a layer whose patch tokens do not reach the logits.

    Source: Selvaraju et al., "Grad-CAM: visual explanations from deep networks via gradient-based
    localization", ICCV 2017; values equal those of https://github.com/jacobgil/pytorch-grad-cam on a CPU.
    """
    if method not in METHODS:
        raise UserError(f"CAM: no method {method!r}{nearest(method, METHODS)}")
    network = plain(network)
    with preserve_state(network):
        own = at_home(images, network)
        for attempt, wanted in enumerate(_explained_layers(network, own) if layer == "auto" else [layer]):
            name, module = find_layer(network, wanted)
            try:
                if attempt:  # one image shows whether the logits depend on a layer
                    _layer_gradients(network, module, own[:1], None)
                found = _layer_gradients(network, module, own, target, second_order=method == "shapleycam")
                break
            except _UnusedLayerError:
                if layer != "auto":
                    raise
        raw = _raw_maps(method, found, network, module, own).relu()
    maps, maxima = _scaled(raw, images.shape[2:]), raw.amax((1, 2))
    maps, maxima, predicted, classes = (
        value.to(images.device) for value in (maps, maxima, found.predicted, found.classes)
    )
    return CamResult(maps, maxima, predicted, classes, name)


# The layer that `auto` has found for a network, with what it depends on: the search takes a forward pass.
_FOUND: WeakKeyDictionary[nn.Module, tuple[object, str]] = WeakKeyDictionary()


def _explained_layers(network: nn.Module, images: Tensor) -> Iterator[str]:
    """The layers of `last_map_layers`; before them the one that was found for the same weights and size of images."""
    tensors = [*network.parameters(), *network.buffers()]
    # Every change in place counts up the version, except of a tensor made in inference mode, which may change unseen.
    versions = [(id(one), object() if one.is_inference() else one._version) for one in tensors]
    state = images.shape[1:], images.device, versions, [(name, id(part)) for name, part in network.named_modules()]
    known, name = _FOUND.get(network, (None, ""))
    if known == state:
        yield name
    for name in last_map_layers(network, images):
        _FOUND[network] = state, name
        yield name


class _UnusedLayerError(UserError):
    """The logits do not depend on the layer's map."""


class _LayerGradients(NamedTuple):
    """Maps of one layer and their gradients, float32 (B, C, h, w) on the CPU, from one forward and one backward."""

    activations: Tensor
    gradient: Tensor
    layout: Layout
    logits: Tensor
    predicted: Tensor
    classes: Tensor


def _layer_gradients(
    network: nn.Module, layer: nn.Module, images: Tensor, target: Any, *, second_order: bool = False
) -> _LayerGradients:
    """Run one forward whose graph begins at the layer, and one backward that ends there.

    `second_order` corrects the gradient as ShapleyCAM does, by half the Hessian times the activations.
    """
    record = ForwardRecord(images.shape[2:])
    caught: list[Tensor] = []
    layouts: list[Layout] = []

    def cut(_module: nn.Module, _inputs: object, output: object) -> Tensor | None:
        if caught:  # of a layer that runs twice, the grad-cam package uses the first map
            return None
        layout = record.layout(output)
        if layout is None or not isinstance(output, Tensor):
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise UserError(
                f"CAM: this layer's output {shape} cannot be read as a map (B, C, h, w); choose another layer"
            )
        # No parameter requires a gradient, so nothing has a graph yet. A network may run its frozen base under
        # no_grad; the mode is restored where that block ends.
        torch.set_grad_enabled(True)
        leaf = output.detach().requires_grad_()
        # An in-place ReLU after the layer writes into the copy; autograd forbids writing into the leaf.
        # `onward.detach()` shares what it wrote, as do the activations that the package keeps.
        onward = leaf.clone()
        caught.extend((leaf, onward.detach()))
        layouts.append(layout)
        return onward

    with ExitStack() as stack:
        for module in record.watched(network, layer):
            stack.enter_context(module.register_forward_hook(record.note))
        stack.enter_context(layer.register_forward_hook(cut))
        if second_order:
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # fused attention has no second derivative
        logits = network(images.clone())  # a copy, since a network may write into its input
    if not caught:
        raise UserError("CAM: the images do not pass through this layer; choose another, or layer: auto")
    (leaf, activations), layout = caught, layouts[0]
    predicted = logits.detach().argmax(1)
    classes = _classes(target, predicted, logits.shape[1])
    score = logits.gather(1, classes[:, None]).sum()
    gradient = None
    if score.requires_grad:
        gradient = torch.autograd.grad(score, leaf, allow_unused=True, create_graph=second_order)[0]
    if gradient is None:
        raise _UnusedLayerError("CAM: the logits do not depend on this layer; choose another, or layer: auto")
    if second_order and gradient.requires_grad:
        hessian_product = torch.autograd.grad(gradient, leaf, leaf.detach())[0]
        gradient = (gradient - 0.5 * hessian_product).detach()
    of_patches = layout.to_map(gradient)
    if layout.grid and layout.extra_tokens(gradient).any() and not of_patches.any():
        raise _UnusedLayerError(
            "CAM: the logits depend only on this layer's class token, not on its patches; choose an earlier layer "
            "(the first norm of the last block), or layer: auto"
        )
    maps = layout.to_map(activations)
    return _LayerGradients(maps.float().cpu(), of_patches.float().cpu(), layout, logits.detach(), predicted, classes)


def _raw_maps(method: str, found: _LayerGradients, network: nn.Module, layer: nn.Module, images: Tensor) -> Tensor:
    """Maps (B, h, w) before ReLU and scaling."""
    # Summed by NumPy, as in the package: where channels cancel out, the order shows in the sixth digit.
    activations, gradient = found.activations.numpy(), found.gradient.numpy()
    if (name := METHODS[method]) is not None:
        package = importlib.import_module("pytorch_grad_cam")
        np.random.seed(0)  # for randomcam; `preserve_state` restores the state
        # The package weights the maps without the network, which it would set to eval mode and clear of gradients: https://github.com/jacobgil/pytorch-grad-cam/blob/master/pytorch_grad_cam/base_cam.py
        weigh = getattr(package, name)(nn.Linear(1, 1), []).get_cam_image
        return torch.from_numpy(np.float32(weigh(None, None, None, activations, gradient, False)))
    if method == "scorecam":
        weights = _score_weights(found, network, images).numpy()
    elif method == "ablationcam":
        weights = _ablation_weights(found, network, layer, images).numpy()
    else:
        weights = gradient.mean((2, 3))
    return torch.from_numpy((weights[:, :, None, None] * activations).sum(1))


@torch.no_grad()
def _score_weights(found: _LayerGradients, network: nn.Module, images: Tensor) -> Tensor:
    """Weights (B, C): the softmax over channels of the class's logit for the image masked by the channel's map.

    Source: Wang et al., "Score-CAM: score-weighted visual explanations for convolutional neural networks", CVPR
    Workshops 2020.
    """
    scores = []
    for image, maps, number in zip(images, found.activations, found.classes, strict=True):
        masks = nn.functional.interpolate(maps[None], size=image.shape[1:], mode="bilinear", align_corners=True)[0]
        lowest, highest = masks.amin((1, 2), keepdim=True), masks.amax((1, 2), keepdim=True)
        masks = ((masks - lowest) / (highest - lowest + 1e-8)).to(image)
        scores.append(torch.cat([network(image * chunk[:, None])[:, number] for chunk in torch.split(masks, _CHUNK)]))
    return torch.stack(scores).float().softmax(1).cpu()


@torch.no_grad()
def _ablation_weights(found: _LayerGradients, network: nn.Module, layer: nn.Module, images: Tensor) -> Tensor:
    """Weights (B, C): the fraction by which the class's logit falls when the channel is set to zero.

    Source: Desai and Ramaswamy, "Ablation-CAM: visual explanations for deep convolutional network via
    gradient-free localization", WACV 2020.
    """
    channels = torch.arange(found.activations.shape[1])
    scores = []
    for image, number in zip(images, found.classes, strict=True):
        for chunk in torch.split(channels, _CHUNK):

            def ablate(_module: nn.Module, _inputs: object, output: Tensor, chunk: Tensor = chunk) -> Tensor:
                output = output.clone()
                found.layout.to_map(output)[torch.arange(len(chunk)), chunk] = 0
                return output

            with layer.register_forward_hook(ablate):
                scores.append(network(image.expand(len(chunk), -1, -1, -1).clone())[:, number])
    original = found.logits.gather(1, found.classes[:, None])
    return ((original - torch.cat(scores).view(len(images), -1)) / original).float().cpu()


def _scaled(raw: Tensor, size: Sequence[int]) -> Tensor:
    """Maps (B, h, w) >= 0 to (B, *size) in [0, 1], step by step as the package does (`base_cam.py`)."""
    scaled = nn.functional.interpolate(
        _zero_to_one(raw)[:, None], size=tuple(size), mode="bilinear", align_corners=False
    )
    return _zero_to_one(scaled[:, 0]).clamp_(0, 1)


def _zero_to_one(maps: Tensor) -> Tensor:
    shifted = maps - maps.amin((1, 2), keepdim=True)
    return shifted / (1e-7 + shifted.amax((1, 2), keepdim=True))


def _classes(target: Any, predicted: Tensor, num_classes: int) -> Tensor:
    if target is None:
        return predicted
    classes = torch.as_tensor(target, dtype=torch.int64, device=predicted.device)
    classes = classes.expand_as(predicted) if classes.ndim == 0 else classes
    if classes.shape != predicted.shape:
        raise UserError(f"CAM: target has the shape {tuple(classes.shape)}, but there are {len(predicted)} images")
    if bool(((classes < 0) | (classes >= num_classes)).any()):
        raise UserError(f"CAM: target {classes.tolist()} must be from 0 to {num_classes - 1}")
    return classes.clone()
