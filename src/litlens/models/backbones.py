"""A torchvision or timm network with a new head, whose layers below any index can be frozen and computed separately."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from litlens.errors import UserError, nearest
from litlens.models.networks.building_blocks import Network
from litlens.models.optimization import is_within
from litlens.models.pretrained import (
    TIMM,
    Constants,
    load_weights,
    timm_base,
    torchvision_network,
    weights_normalization,
)

# Networks that run their children one after the other and pool at the end: they can be split between any two layers.
# Others (DenseNet, GoogLeNet, Inception, ViT, MaxViT) do more in their forward: they can only be split at the head.
_SEQUENTIAL = (
    "alexnet",
    "convnext",
    "efficientnet",
    "mnasnet",
    "mobilenet",
    "regnet",
    "resnet",
    "resnext",
    "shufflenet",
    "squeezenet",
    "swin",
    "vgg",
    "wide_resnet",
)


@dataclass
class Features:
    """The output of the layers below `index` for a batch of images: (B, C, h, w), or (B, F) for the head."""

    values: Tensor
    index: int


class TransferNetwork(Network):
    """A base from torchvision or timm and a new head: images (B, C, H, W) in, logits (B, num_classes) out.

    The base's children keep torchvision's names (`layer4`, `features`); `head` replaces the last one, the classifier.
    Networks that do more than run their children one after the other (DenseNet, GoogLeNet, vision transformers), and
    all of timm's, are under `base`, whose output is the input of their classifier.

    `layer_names` are the layers in the order of the forward pass; a layer's index is its position in that list.

    Args:
        num_classes: The number of logits.
        in_channels: 1 or 3; gray images are repeated in three channels.
        image_size: Height and width.
        backbone: A classification network of torchvision (`resnet18`, `vgg16`, `mobilenet_v2`, …) or of timm
            (`timm/convnext_tiny`, or `timm/NAME.TAG` for other weights than its default ones).
        weights: `DEFAULT`, another of torchvision's names (`IMAGENET1K_V1`), a state-dict file, or null for random.
        head: Widths of hidden layers with ReLU; none for one linear layer.
        dropout: The rate before every linear layer of the head.
        pool: `avg` averages the last feature map, `none` flattens it; what is under `base` pools by itself.
        normalization: Mean and std that the weights were trained with, as in `data.normalize`; `auto` for those of
            torchvision's or timm's weights (a file counts as the default weights); null accepts any data.
    """

    def __init__(
        self,
        num_classes: int = 2,
        in_channels: int = 3,
        image_size: tuple[int, int] = (224, 224),
        backbone: str = "resnet18",
        weights: str | None = None,
        head: Sequence[int] = (),
        dropout: float = 0.0,
        pool: Literal["avg", "none"] = "avg",
        normalization: str | Constants | None = "auto",
    ) -> None:
        super().__init__()
        if in_channels not in (1, 3):
            raise UserError(f"data: {backbone} takes images of 1 or 3 channels, not {in_channels}")
        if not 0 <= dropout < 1:
            raise UserError(f"network.dropout: {dropout}: give a number from 0 to below 1")
        self.weights_source = weights = None if weights == "None" else weights
        # A checkpoint has the trained weights: rebuilding the layers from it reads and downloads nothing.
        self.arguments.update(weights=None, head=list(head))
        self.weights_normalization = weights_normalization(backbone, weights, normalization)

        classifier = None
        if backbone.startswith(TIMM):
            network = timm_base(backbone, image_size, weights)
        else:
            network = torchvision_network(backbone, image_size)
            classifier = list(network._modules)[-1]
            if weights is not None:
                load_weights(network, backbone, weights, optional=classifier)
        children = {name: module for name, module in network.named_children() if name != classifier}
        self.can_be_split = backbone.startswith(_SEQUENTIAL)
        if self.can_be_split:
            while isinstance(list(children.values())[-1], nn.AdaptiveAvgPool2d | nn.Flatten | nn.Dropout):
                children.popitem()
            stages, prefix = children, ""
        else:
            if classifier is not None:
                setattr(network, classifier, nn.Identity())
            stages, prefix = {"base": network}, "base."
        for name, module in stages.items():
            self.add_module(name, module)
        self._stages = list(stages)
        self.layer_names = [prefix + layer for name, module in children.items() for layer in _layers(name, module)]
        self.aliases = _keras_names(stages["features"]) if backbone.startswith("vgg") else {}
        self.pool = _Average() if pool == "avg" else nn.Flatten()
        known: Any = getattr(network, "pretrained_cfg", {})  # timm's
        own = known["input_size"][1:] if known.get("fixed_input_size") else None
        base = nn.Sequential(*stages.values(), self.pool)
        layers, width = [], self.flat_size(base, 3, image_size, designed_for=own)
        for hidden in head:
            layers += [nn.Dropout(dropout), nn.Linear(width, hidden), nn.ReLU()]
            width = hidden
        self.head = nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(width, num_classes))

    def forward(self, images: Tensor | Features) -> Tensor:
        """Compute the logits (B, num_classes) of images (B, C, H, W), or of the output of the lower layers."""
        if isinstance(images, Features):
            values = images.values.to(next(self.head.parameters()).dtype)
            if images.index < len(self.layer_names):
                values = self.pool(self._through(self.layer_names[images.index :], values))
        else:
            values = self.pool(self._through(self._stages, self._colored(images)))
        logits: Tensor = self.head(values)
        return logits

    def up_to(self, index: int, images: Tensor) -> Features:
        """Compute the output of the layers below `index` for images (B, C, H, W); that of all is the head's input."""
        if index == len(self.layer_names):
            return Features(self.pool(self._through(self._stages, self._colored(images))), index)
        return Features(self._through(self.layer_names[:index], self._colored(images)), index)

    def layer_index(self, name: str) -> int:
        """The index of a layer, or of the first layer of a block; `head` is after the last.

        VGG's convolutions have their Keras names, too: `block5_conv1`. Raises UserError with the nearest names.
        """
        if name == "head":
            return len(self.layer_names)
        by_alias = {alias: layer for layer, alias in self.aliases.items()}
        wanted = by_alias.get(name, name)
        for index, layer in enumerate(self.layer_names):
            if is_within(layer, wanted) or is_within(layer, f"base.{wanted}"):
                return index
        names = [*self.layer_names, *self._stages, *by_alias, "head"]
        raise UserError(
            f"model.train_from: {self.arguments['backbone']} has no layer '{name}'{nearest(name, names, most=3)}"
        )

    def freeze_below(self, index: int, *, modes: bool = True) -> None:
        """Freeze the layers below `index`; the others and the head train.

        No parameter of a frozen layer requires a gradient and, with `modes`, its BatchNorm and Dropout are in
        evaluation mode.
        """
        trained = [*self.layer_names[index:], "head"]
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(index == 0 or any(is_within(name, layer) for layer in trained))
        for name, module in self.named_modules() if modes else ():
            # A container is in training mode if anything in it trains.
            module.training = any(is_within(name, layer) or is_within(layer, name) for layer in trained)

    def depth_scales(self, decay: float) -> dict[str, float]:
        """A learning rate scale for each layer of the base: 1 at the top, then `decay` of the layer above."""
        scales, scale = {}, 1.0
        for layer in reversed(self.layer_names):
            if any(True for _ in self.get_submodule(layer).parameters()):
                scales[layer] = scale
                scale *= decay
        return (
            scales if self.can_be_split else {**scales, "base": scale}
        )  # parameters outside the layers: a ViT's class token

    def _colored(self, images: Tensor) -> Tensor:
        return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images

    def _through(self, names: Sequence[str], values: Tensor) -> Tensor:
        for name in names:
            values = self.get_submodule(name)(values)
        return values


class _Average(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values.mean((2, 3)) if values.ndim == 4 else values.flatten(1)


@dataclass(frozen=True)
class FrozenLayers:
    """The layers of a network below `index` as a function of images, whose output can be cached."""

    network: TransferNetwork
    index: int

    def __call__(self, images: Tensor) -> Tensor:
        """Compute features, float32 on the CPU, of images (B, C, H, W) in evaluation mode; modes are restored."""
        weight = next(self.network.parameters())
        modes = [(module, module.training) for module in self.network.modules()]
        try:
            self.network.eval()
            with torch.inference_mode(), torch.autocast(weight.device.type, enabled=False):
                values = self.network.up_to(self.index, images.to(weight.device, weight.dtype)).values
        finally:
            for module, mode in modes:
                module.training = mode
        # A copy made outside inference_mode, which an in-place ReLU may change.
        return values.float().cpu().clone()

    def batch(self, values: Tensor) -> Features:
        """Cached values in the form that the network takes in place of images."""
        return Features(values, self.index)

    def key(self) -> str:
        """A digest of everything that the features of an image depend on: the layers and their weights."""
        network = self.network
        options = {key: network.arguments[key] for key in ("backbone", "pool", "in_channels", "image_size")}
        digest = hashlib.blake2b(json.dumps([options, self.index], sort_keys=True).encode(), digest_size=16)
        names = network.layer_names[: self.index] if network.can_be_split else network._stages
        for name in names:
            for key, value in network.get_submodule(name).state_dict().items():
                digest.update(f"{name}.{key} {tuple(value.shape)} {value.dtype}".encode())
                digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()


def _layers(name: str, module: nn.Module) -> Iterator[str]:
    """The names of the layers inside sequences; blocks are not divided."""
    is_sequence = isinstance(module, nn.ModuleList) or type(module).forward is nn.Sequential.forward
    if is_sequence and len(module._modules):
        for child, inner in module.named_children():
            yield from _layers(f"{name}.{child}", inner)
    else:
        yield name


def _keras_names(features: nn.Module) -> dict[str, str]:
    """The Keras names of VGG's convolutions, by block and position: `block5_conv1`."""
    names, block, position = {}, 1, 0
    for number, layer in features.named_children():
        if isinstance(layer, nn.Conv2d):
            position += 1
            names[f"features.{number}"] = f"block{block}_conv{position}"
        elif isinstance(layer, nn.MaxPool2d):
            block, position = block + 1, 0
    return names
