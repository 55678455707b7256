"""Class activation maps: where in the image the evidence for a class lies."""

import difflib
import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from litlens.errors import UserError
from litlens.explain.map_layers import find_layer, last_map_layers
from litlens.explain.preserve_state import at_home, plain, preserve_state

# Our names and the classes of the grad-cam package: those that weigh the maps of one layer.
METHODS = {
    "gradcam": "GradCAM",
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
    "shapleycam": "ShapleyCAM",
    "scorecam": "ScoreCAM",
    "ablationcam": "AblationCAM",
    "randomcam": "RandomCAM",
}


class CamResult(NamedTuple):
    """What `cam` finds, on the images' device.

    `maps` float32 (B, H, W) in [0, 1], each stretched to its own maximum; `maxima` float32 (B,), that maximum
    before stretching (0: the layer has nothing for this class, and the map is all zeros); `predicted` and
    `target` int64 (B,), the class that the network names and the class that was asked for; `layer`, the name
    of the layer looked at.
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
    """Show where images (B, C, H, W), normalized as the network expects, speak for a class.

    `target` is one class for all or one each; by default the predicted one. `layer` is a name, a number (see
    `find_layer`) or `auto`: the last layer on the way to the classes whose map is larger than 1×1 and not one
    value repeated. `method` is a key of `METHODS`; all but `gradcam` run the grad-cam package.

    The network stays as it was: gradients, modes, hooks, random states and memory, so it can be called at any
    time in training, on any rank alone. Computed in the weights' own precision with autocast off.

    Raises NoMapError for a network without a map (an MLP), UserError for unknown names and classes.

    Source: Selvaraju et al., "Grad-CAM: visual explanations from deep networks via gradient-based
    localization", ICCV 2017; values equal those of https://github.com/jacobgil/pytorch-grad-cam on a CPU.
    """
    if method not in METHODS:
        nearest = difflib.get_close_matches(method, METHODS, n=1, cutoff=0.0)[0]
        raise UserError(f"no CAM method {method!r}; nearest: {nearest}; there are {', '.join(METHODS)}")
    network = plain(network)
    with preserve_state(network):
        own = at_home(images, network)
        for wanted in last_map_layers(network, own) if layer == "auto" else [layer]:
            name, module = find_layer(network, wanted)
            # Copies, since a network may write into its input.
            try:
                if method == "gradcam":
                    found = _gradcam(network, module, own.clone(), target)
                    break
                if layer == "auto":  # the package would show a layer beside the way, or fail in its own words
                    _gradcam(network, module, own[:1].clone(), None)
                found = _package_cam(network, module, own.clone(), target, method=method, name=name)
                break
            except _BesideError:
                if layer != "auto":
                    raise
    maps, maxima, predicted, classes = found
    maps, maxima, predicted, classes = (values.to(images.device) for values in (maps, maxima, predicted, classes))
    return CamResult(maps, maxima, predicted, classes, name)


_Found = tuple[Tensor, Tensor, Tensor, Tensor]


class _BesideError(UserError):
    """The layer's map is not on the way to the classes."""


def _gradcam(network: nn.Module, layer: nn.Module, images: Tensor, target: Any) -> _Found:
    """Grad-CAM the short way: one forward whose graph begins at the layer, one backward that ends there."""
    caught: list[Tensor] = []

    def cut(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor | None:
        if caught:  # of a layer that runs twice, the package takes the first map
            return None
        # No parameter wants gradients, so nothing has a graph yet. A network may run its frozen base under
        # no_grad; the mode is put back where that block ends.
        torch.set_grad_enabled(True)
        leaf = output.detach().requires_grad_()
        # An in-place ReLU behind the layer writes into the copy, not into the leaf (which it may not).
        # `onward.detach()` sees what it wrote; so do the activations that the package keeps.
        onward = leaf.clone()
        caught.extend((leaf, onward.detach()))
        return onward

    handle = layer.register_forward_hook(cut)
    try:
        logits = network(images)
    finally:
        handle.remove()
    if not caught:
        raise UserError("CAM: the images do not pass through this layer; choose another, or layer: auto")
    leaf, activations = caught
    if leaf.ndim != 4:
        raise UserError(f"CAM: this layer gives {tuple(leaf.shape)} and not a map (B, C, h, w); choose another")
    predicted = logits.detach().argmax(1)
    classes = _classes(target, predicted, logits.shape[1])
    score = logits.gather(1, classes[:, None]).sum()
    gradient = torch.autograd.grad(score, leaf, allow_unused=True)[0] if score.requires_grad else None
    if gradient is None:
        raise _BesideError("CAM: the classes do not depend on this layer; choose another, or layer: auto")
    # NumPy's sums, as in the package: where the channels cancel out, the order of summation shows in the
    # sixth digit.
    weights = gradient.float().cpu().numpy().mean((2, 3))
    weighted = weights[:, :, None, None] * activations.float().cpu().numpy()
    raw = torch.from_numpy(weighted.sum(1)).relu()
    return _stretched(raw, images.shape[2:]), raw.amax((1, 2)), predicted, classes


def _stretched(raw: Tensor, size: Sequence[int]) -> Tensor:
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
        raise UserError(f"CAM: {len(predicted)} images but target has the shape {tuple(classes.shape)}")
    if bool(((classes < 0) | (classes >= num_classes)).any()):
        raise UserError(f"CAM: target {classes.tolist()} must be from 0 to {num_classes - 1}")
    return classes.clone()


class _Bystander(nn.Module):
    """What the package gets instead of the network, to put into eval mode and wipe of gradients at will."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Any:
        # A copy: the images are a leaf that wants gradients, in which no network may write.
        return self.network(images.clone())

    def train(self, mode: bool = True) -> "_Bystander":
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        pass


def _package_cam(
    network: nn.Module, layer: nn.Module, images: Tensor, target: Any, *, method: str, name: str
) -> _Found:
    hooks = set(layer._forward_hooks)
    package = importlib.import_module("pytorch_grad_cam")
    with torch.no_grad():
        logits = network(images.clone())
    predicted = logits.argmax(1)
    classes = _classes(target, predicted, logits.shape[1])
    targets = [package.utils.model_targets.ClassifierOutputTarget(number) for number in classes.tolist()]
    # Its own default ablation layer is shared between calls and would keep our activations.
    extra = {"ablation_layer": package.AblationLayer()} if method == "ablationcam" else {}
    if method == "shapleycam":  # differentiates twice, by way of the weights; it fills no .grad
        network.requires_grad_(True)
    np.random.seed(0)  # for randomcam; `preserve_state` puts the state back, as it does requires_grad
    maker = getattr(package, METHODS[method])(_Bystander(network), [layer], **extra)
    raw: list[Any] = []
    get_cam_image = maker.get_cam_image

    def keep_raw(*arguments: Any, **keywords: Any) -> Any:
        raw.append(get_cam_image(*arguments, **keywords))
        return raw[-1]

    maker.get_cam_image = keep_raw
    try:
        with _without_bars(package):
            # Images that want gradients carry the graph through a base that is frozen.
            maps = maker(input_tensor=images.requires_grad_(), targets=targets)
    finally:
        del maker.get_cam_image  # else it and `maker` hold each other
        kept = maker.activations_and_grads
        kept.activations, kept.gradients = [], []  # release() fails on gradients that are views
        kept.release()
        # AblationCAM puts its own layer in this place; where it fails, it leaves that and a hook behind.
        parent, _, child = name.rpartition(".")
        network.get_submodule(parent)._modules[child] = layer
        for key in set(layer._forward_hooks) - hooks:
            del layer._forward_hooks[key]
    maxima = torch.from_numpy(np.maximum(np.float32(raw[0]), 0).max((1, 2)))
    return torch.from_numpy(maps).clamp_(0, 1), maxima, predicted, classes


@contextmanager
def _without_bars(package: Any) -> Iterator[None]:
    """ScoreCAM and AblationCAM draw a progress bar for each image."""

    class NoBars:
        tqdm = staticmethod(iter)

    modules = [importlib.import_module(f"{package.__name__}.{name}") for name in ("score_cam", "ablation_cam")]
    originals = [module.tqdm for module in modules]
    try:
        for module in modules:
            module.tqdm = NoBars  # type: ignore[attr-defined]
        yield
    finally:
        for module, original in zip(modules, originals, strict=True):
            module.tqdm = original  # type: ignore[attr-defined]
