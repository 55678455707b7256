"""Feature maps: the outputs of single layers for an image."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from litlens.errors import UserError
from litlens.explain.layouts import ForwardRecord
from litlens.explain.map_layers import convolutions, find_layer
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
    outputs: dict[str, Tensor] = {}
    record = ForwardRecord(images.shape[2:])

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            layout = record.layout(output)
            if layout is None or not isinstance(output, Tensor):
                raise UserError(f"feature maps: the output of {name} is not a map (B, C, h, w); choose another layer")
            if name not in outputs:
                # A copy: the next in-place ReLU would write into it.
                outputs[name] = layout.to_map(output).detach().to(images.device, torch.float32, copy=True)

        return module.register_forward_hook(keep)

    with preserve_state(network), torch.no_grad():
        own = at_home(images, network)
        chosen = dict(
            find_layer(network, layer) for layer in (_first_middle_last(network, own) if layers is None else layers)
        )
        handles = [module.register_forward_hook(record.note) for module in network.modules()]
        handles += [watch(name, module) for name, module in chosen.items()]
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
