"""Feature maps: the outputs of chosen layers for images."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from litlens.errors import UserError
from litlens.explain.map_layers import convolutions, find_layer, read_maps
from litlens.explain.preserve_state import at_home, plain, preserve_state


def feature_maps(network: nn.Module, images: Tensor, layers: Sequence[str | int] | None = None) -> dict[str, Tensor]:
    """Outputs float32 (B, C, h, w) of chosen layers for images (B, C, H, W), by name, on the images' device.

    `layers` are names (`features.20`) or indices (see `find_layer`); by default the first, the middle and the
    last convolution. Of a layer that runs more than once, the first output. Layouts other than a CNN's are read
    as in `cam`. The network stays as it was.

    Raises NoMapError where the network has no convolution and no layer is named, UserError for an unknown
    layer or one whose output is not a map.
    """
    network = plain(network)
    with preserve_state(network):
        own = at_home(images, network)
        if layers is None:
            names = convolutions(network, own)
            layers = [names[0], names[len(names) // 2], names[-1]]
        chosen = [find_layer(network, layer) for layer in layers]
        outputs = read_maps(network, own, chosen)
    found = {}
    for name, _ in chosen:
        if name not in outputs:
            raise UserError(f"feature maps: the images do not pass through {name}; choose another layer")
        if (first := outputs[name][0]) is None:
            raise UserError(f"feature maps: the output of {name} is not a map (B, C, h, w); choose another layer")
        found[name] = first.to(images.device, torch.float32)
    return found
