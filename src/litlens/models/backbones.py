"""A torchvision network with a new head, whose layers below any index can be frozen and computed on their own."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from litlens.errors import UserError, nearest
from litlens.models.networks.building_blocks import Network
from litlens.models.optimization import is_within
from litlens.models.pretrained import Constants, load_weights, torchvision_network, weights_normalization

# Networks that run their children one after the other and pool at the end, so that they can be split between any two
# layers. Others (DenseNet, GoogLeNet, Inception, ViT, MaxViT) do more in their forward: split at the head alone.
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
    """A base from torchvision and a new head: images (B, C, H, W) in, logits (B, num_classes) out.

    The base's children keep torchvision's names (`layer4`, `features`); `head` takes the place of the last one,
    the classifier. Networks that do more than run their children one after the other (DenseNet, GoogLeNet, vision
    transformers) are kept under `base`, whose output is the input of their classifier.

    `layer_names` are the layers in the order in which images pass them; a layer's index is its place in it.

    Args:
        num_classes: How many logits.
        in_channels: 1 or 3; gray images become three equal channels.
        image_size: Height and width.
        backbone: torchvision's name of a classification network: `resnet18`, `vgg16`, `mobilenet_v2`, …
        weights: `DEFAULT`, another of torchvision's names (`IMAGENET1K_V1`), a state-dict file, or null for random.
        head: Widths of hidden layers with ReLU; none for one linear layer.
        dropout: Before every linear layer of the head.
        pool: `avg`, the last map averaged, or `none`, flattened.
        normalization: Mean and std that the weights want, as in `data.normalize`; `auto` for torchvision's
            own, which for files are taken to be ImageNet's; null for whatever the data have.
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
            raise UserError(f"{backbone} takes images of 1 or 3 channels, not {in_channels}")
        if not 0 <= dropout < 1:
            raise UserError(f"dropout: {dropout} is not from 0 to below 1")
        self.weights_source = weights = None if weights == "None" else weights
        # A checkpoint has the trained weights: to rebuild the layers from it, nothing is read or downloaded.
        self.arguments.update(weights=None, head=list(head))
        self.weights_normalization = weights_normalization(backbone, weights, normalization)

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
            setattr(network, classifier, nn.Identity())
            stages, prefix = {"base": network}, "base."
        for name, module in stages.items():
            self.add_module(name, module)
        self._stages = list(stages)
        self.layer_names = [prefix + layer for name, module in children.items() for layer in _layers(name, module)]
        # VGG's convolutions by block and place, `block5_conv1`.
        self.aliases = _keras_names(stages["features"]) if backbone.startswith("vgg") else {}
        self.pool = _Average() if pool == "avg" else nn.Flatten()
        layers, width = [], self.flat_size(nn.Sequential(*stages.values(), self.pool), 3, image_size)
        for hidden in head:
            layers += [nn.Dropout(dropout), nn.Linear(width, hidden), nn.ReLU()]
            width = hidden
        self.head = nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(width, num_classes))

    def forward(self, images: Tensor | Features) -> Tensor:
        """Logits (B, num_classes) of images (B, C, H, W), or of the output of the lower layers."""
        if isinstance(images, Features):
            values = images.values.to(next(self.head.parameters()).dtype)
            if images.index < len(self.layer_names):
                values = self.pool(self._through(self.layer_names[images.index :], values))
        else:
            values = self.pool(self._through(self._stages, self._colored(images)))
        logits: Tensor = self.head(values)
        return logits

    def up_to(self, index: int, images: Tensor) -> Features:
        """The output of the layers below `index` for images (B, C, H, W); of all of them, the head's input."""
        if index == len(self.layer_names):
            return Features(self.pool(self._through(self._stages, self._colored(images))), index)
        return Features(self._through(self.layer_names[:index], self._colored(images)), index)

    def layer_index(self, name: str) -> int:
        """The index of a layer, or of the first layer of a block; `head` comes after the last.

        VGG's convolutions are also known as in Keras, `block5_conv1`. Raises UserError with the nearest names.
        """
        if name == "head":
            return len(self.layer_names)
        known = {other: layer for layer, other in self.aliases.items()}
        wanted = known.get(name, name)
        for number, layer in enumerate(self.layer_names):
            if is_within(layer, wanted) or is_within(layer, f"base.{wanted}"):
                return number
        names = [*self.layer_names, *self._stages, *known, "head"]
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
            # A container trains where anything in it does.
            module.training = any(is_within(name, layer) or is_within(layer, name) for layer in trained)

    def depth_scales(self, decay: float) -> dict[str, float]:
        """A scale for the learning rate of each layer of the base: 1 at the top, and `decay` of the layer above."""
        scales, scale = {}, 1.0
        for layer in reversed(self.layer_names):
            if any(True for _ in self.get_submodule(layer).parameters()):
                scales[layer] = scale
                scale *= decay
        return scales if self.can_be_split else {**scales, "base": scale}  # what is in no layer: a ViT's class token

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
    """The layers of a network below number `layer`, as a function of images whose results can be kept."""

    network: TransferNetwork
    index: int

    def __call__(self, images: Tensor) -> Tensor:
        """Features float32 on the CPU of images (B, C, H, W), in evaluation mode; modes stay as they were."""
        weight = next(self.network.parameters())
        modes = [(module, module.training) for module in self.network.modules()]
        try:
            self.network.eval()
            with torch.inference_mode(), torch.autocast(weight.device.type, enabled=False):
                values = self.network.up_to(self.index, images.to(weight.device, weight.dtype)).values
        finally:
            for module, mode in modes:
                module.training = mode
        # A copy made outside of inference_mode, in which an in-place ReLU may write.
        return values.float().cpu().clone()

    def batch(self, values: Tensor) -> Features:
        """Kept values as the network takes them in place of images."""
        return Features(values, self.index)

    def key(self) -> str:
        """A digest of everything that the features of an image depend on: layers and the values in them."""
        network = self.network
        about = {key: network.arguments[key] for key in ("backbone", "pool", "in_channels", "image_size")}
        digest = hashlib.blake2b(json.dumps([about, self.index], sort_keys=True).encode(), digest_size=16)
        names = network.layer_names[: self.index] if network.can_be_split else network._stages
        for name in names:
            for key, value in network.get_submodule(name).state_dict().items():
                digest.update(f"{name}.{key} {tuple(value.shape)} {value.dtype}".encode())
                digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()


def _layers(name: str, module: nn.Module) -> Iterator[str]:
    """The layers inside sequences, a sequence's own name where it holds none; blocks stay whole."""
    if type(module).forward is nn.Sequential.forward and len(module._modules):
        for child, inner in module.named_children():
            yield from _layers(f"{name}.{child}", inner)
    else:
        yield name


def _keras_names(features: nn.Module) -> dict[str, str]:
    """What Keras calls VGG's convolutions."""
    names, block, place = {}, 1, 0
    for number, layer in features.named_children():
        if isinstance(layer, nn.Conv2d):
            place += 1
            names[f"features.{number}"] = f"block{block}_conv{place}"
        elif isinstance(layer, nn.MaxPool2d):
            block, place = block + 1, 0
    return names
