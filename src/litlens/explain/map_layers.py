"""Which layer to look at: by name, by number, or the last one that still has a map."""

from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from litlens.errors import UserError, nearest
from litlens.explain.layouts import ForwardRecord


class NoMapError(UserError):
    """The network has no layer whose output is a map (an MLP has none); a caller can go on without one."""


def find_layer(network: nn.Module, layer: str | int) -> tuple[str, nn.Module]:
    """A layer by its name (`features.20`) or its number among the layers without children.

    Numbers count from 0, or from -1 backwards. Raises UserError with the nearest names where there is none.
    """
    named = {name: module for name, module in network.named_modules() if name}
    if isinstance(layer, str):
        if layer in named:
            return layer, named[layer]
        raise UserError(f"{type(network).__name__} has no layer {layer!r}{nearest(layer, named, most=3)}")
    leaves = [(name, module) for name, module in named.items() if not any(module.children())]
    if not -len(leaves) <= layer < len(leaves):
        raise UserError(f"{type(network).__name__} has no layer number {layer}; it has {len(leaves)}, from 0")
    return leaves[layer]


def last_map_layers(network: nn.Module, images: Tensor) -> Iterator[str]:
    """Names of the layers whose map is larger than 1×1 and not one value repeated, for images like these, last first.

    Determined by one forward of one noise image, so that the result depends on the network and the image size
    alone, not on the batch. Use the iterator inside `preserve_state`. Raises NoMapError after the last.
    """
    maps = _maps_in_order(network, images)
    modules = dict(network.named_modules())
    seen: set[str] = set()
    for name in reversed(maps):
        if maps[name].shape[2:].numel() > 1 and _varies(maps[name]):
            # A Sequential gives what its last layer gives: name that one.
            while type(modules[name]).forward is nn.Sequential.forward:
                last = f"{name}.{list(modules[name]._modules)[-1]}"
                if last not in maps:
                    break
                name = last
            if name not in seen:
                seen.add(name)
                yield name
    raise _no_map(network, images)


def convolutions(network: nn.Module, images: Tensor) -> list[str]:
    """Names of the convolutions that images like these pass through, in that order.

    Call it inside `preserve_state`. Raises NoMapError where there is none.
    """
    modules = dict(network.named_modules())
    names = [name for name in _maps_in_order(network, images) if isinstance(modules[name], nn.Conv2d)]
    if not names:
        raise _no_map(network, images)
    return names


def _maps_in_order(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """The output (B, C, h, w) of each layer that has a map, in the order in which the layers finish.

    Layers that run more than once are left out (ResNet's blocks have one ReLU in two places): their name
    would not say which map is meant.
    """
    maps: dict[str, Tensor] = {}
    calls: Counter[str] = Counter()
    record = ForwardRecord(images.shape[2:])

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def note(module: nn.Module, inputs: object, output: object) -> None:
            calls[name] += 1
            record.note(module, inputs, output)
            layout = record.layout(output)
            if layout is not None and isinstance(output, Tensor):
                maps[name] = layout.to_map(output)

        return module.register_forward_hook(note)

    handles = [watch(name, module) for name, module in network.named_modules() if name]
    try:
        with torch.no_grad():
            network(_noise_like(images[:1]))
    finally:
        for handle in handles:
            handle.remove()
    return {name: output for name, output in maps.items() if calls[name] == 1}


def _noise_like(images: Tensor) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return noise.to(images.device, images.dtype)


def _varies(output: Tensor) -> bool:
    lowest, highest = output.amin((2, 3)), output.amax((2, 3))
    # Rounding is no variation: an interpolated 1×1 differs in its last bits.
    return bool((highest - lowest > 1e-5 * torch.maximum(lowest.abs(), highest.abs())).any())


def _no_map(network: nn.Module, images: Tensor) -> NoMapError:
    size = "×".join(str(side) for side in images.shape[2:])
    return NoMapError(
        f"{type(network).__name__} has no layer with a map larger than 1×1 for images of {size}: "
        "nothing to show of where it looks"
    )
