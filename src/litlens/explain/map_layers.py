"""Which layer to explain: by name, by index, or the last one that has a map; and the maps of layers."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from litlens.errors import UserError, nearest
from litlens.explain.layouts import ForwardRecord


class NoMapError(UserError):
    """The network has no layer whose output is a map (an MLP has none); a caller can continue without one."""


def find_layer(network: nn.Module, layer: str | int) -> tuple[str, nn.Module]:
    """Find a layer by its name (`features.20`) or its index among the layers without children.

    Indices count from 0, or from -1 backwards. Raises UserError with the nearest names where there is no such layer.
    """
    named = {name: module for name, module in network.named_modules() if name}
    if isinstance(layer, str):
        if layer in named:
            return layer, named[layer]
        raise UserError(f"{type(network).__name__} has no layer {layer!r}{nearest(layer, named, most=3)}")
    leaves = [(name, module) for name, module in named.items() if not any(module.children())]
    if not -len(leaves) <= layer < len(leaves):
        raise UserError(f"{type(network).__name__} has no layer {layer}: it has layers 0 to {len(leaves) - 1}")
    return leaves[layer]


def last_map_layers(network: nn.Module, images: Tensor) -> Iterator[str]:
    """Names of the layers whose map is larger than 1×1 and not constant, for images like these, last first.

    Determined by one forward of one noise image, so that the result depends on the network and the image size
    alone, not on the batch. Iterate inside `preserve_state`. Raises NoMapError after the last.
    """
    maps = _maps_in_order(network, images)
    modules = dict(network.named_modules())
    seen: set[str] = set()
    for name in reversed(maps):
        if maps[name].shape[2:].numel() > 1 and _varies(maps[name]):
            # A Sequential gives what its last layer gives: name that one.
            while type(modules[name]).forward is nn.Sequential.forward:
                *_, (last, _) = modules[name].named_children()
                if f"{name}.{last}" not in maps:
                    break
                name = f"{name}.{last}"
            if name not in seen:
                seen.add(name)
                yield name
    raise _no_map(network, images)


def convolutions(network: nn.Module, images: Tensor) -> list[str]:
    """Names of the convolutions in the order of the forward, for images like these.

    Call it inside `preserve_state`. Raises NoMapError where there is none.
    """
    modules = dict(network.named_modules())
    names = [name for name in _maps_in_order(network, images) if isinstance(modules[name], nn.Conv2d)]
    if not names:
        raise _no_map(network, images)
    return names


def read_maps(
    network: nn.Module, images: Tensor, layers: Iterable[tuple[str, nn.Module]]
) -> dict[str, list[Tensor | None]]:
    """Outputs (B, C, h, w) of layers by name, one for each time that a layer runs; None for an output without a map.

    Names are in the order in which the layers finish; a layer that does not run is missing. Call it inside
    `preserve_state`.
    """
    record, outputs = ForwardRecord(images.shape[2:]), defaultdict[str, list[Tensor | None]](list)

    def keep(name: str, _module: nn.Module, _inputs: object, output: Any) -> None:
        layout = record.layout(output)
        # A copy: the next in-place ReLU would write into it.
        outputs[name].append(None if layout is None else layout.to_map(output).clone())

    with torch.no_grad(), ExitStack() as hooks:
        for module in network.modules():
            hooks.enter_context(module.register_forward_hook(record.note))
        for name, module in layers:
            hooks.enter_context(module.register_forward_hook(partial(keep, name)))
        network(images.clone())  # a copy, since a network may write into its input
    return outputs


def _maps_in_order(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """The map of each layer that has one, for one noise image, in the order in which the layers finish.

    Layers that run more than once are left out (ResNet's blocks have one ReLU in two places): their name
    would not say which map is meant.
    """
    noise = torch.randn(images[:1].shape, generator=torch.Generator().manual_seed(0)).to(images)
    layers = [(name, module) for name, module in network.named_modules() if name]
    outputs = read_maps(network, noise, layers)
    return {name: maps[0] for name, maps in outputs.items() if len(maps) == 1 and maps[0] is not None}


def _varies(output: Tensor) -> bool:
    lowest, highest = output.amin((2, 3)), output.amax((2, 3))
    # Rounding does not count: an interpolated 1×1 differs in its last bits.
    return bool((highest - lowest > 1e-5 * torch.maximum(lowest.abs(), highest.abs())).any())


def _no_map(network: nn.Module, images: Tensor) -> NoMapError:
    size = "×".join(str(side) for side in images.shape[2:])
    return NoMapError(
        f"{type(network).__name__} has no layer with a map larger than 1×1 for images of {size}: "
        "there is nothing to explain"
    )
