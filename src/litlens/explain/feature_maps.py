"""Feature maps: what single layers of a network make of an image."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from litlens.errors import UserError
from litlens.explain.map_layers import convolutions, find_layer
from litlens.explain.preserve_state import at_home, plain, preserve_state


def feature_maps(network: nn.Module, images: Tensor, layers: Sequence[str | int] | None = None) -> dict[str, Tensor]:
    """Outputs float32 (B, C, h, w) of chosen layers for images (B, C, H, W), by name, on the images' device.

    `layers` are names (`features.20`) or numbers (see `find_layer`); by default the first, the middle and the
    last convolution. Of a layer that runs more than once, the first output. The network stays as it was, as
    with `cam`.

    Raises NoMapError where the network has no convolution and no layer is named, UserError for an unknown
    layer or one that gives no map.
    """
    network = plain(network)
    outputs: dict[str, Tensor] = {}

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            if not isinstance(output, Tensor) or output.ndim != 4:
                raise UserError(f"feature maps: layer {name} gives no map (B, C, h, w); choose another")
            if name not in outputs:
                # A copy: the next in-place ReLU would write into it.
                outputs[name] = output.detach().to(images.device, torch.float32, copy=True)

        return module.register_forward_hook(keep)

    with preserve_state(network), torch.no_grad():
        own = at_home(images, network)
        chosen = dict(
            find_layer(network, layer) for layer in (_first_middle_last(network, own) if layers is None else layers)
        )
        handles = [watch(name, module) for name, module in chosen.items()]
        try:
            network(own)
        finally:
            for handle in handles:
                handle.remove()
    if missing := [name for name in chosen if name not in outputs]:
        raise UserError(f"feature maps: the images do not pass through {', '.join(missing)}; choose other layers")
    return {name: outputs[name] for name in chosen}


def _first_middle_last(network: nn.Module, images: Tensor) -> list[str]:
    names = convolutions(network, images)
    return [names[0], names[len(names) // 2], names[-1]]
