"""Run a network without side effects: everything that is switched is restored, also after an error."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from litlens.errors import UserError


def plain(network: nn.Module) -> nn.Module:
    """The network without DDP, whose forward may communicate, and `torch.compile`, which skips hooks."""
    while True:
        if isinstance(network, DistributedDataParallel):
            network = network.module
        # torch.compile has no public name for the original module: https://github.com/pytorch/pytorch/pull/88629
        elif isinstance(original := getattr(network, "_orig_mod", None), nn.Module):
            network = original
        else:
            return network


@contextmanager
def preserve_state(network: nn.Module) -> Iterator[None]:
    """Within the block: every module in eval mode, no parameter requires gradients, gradients on, autocast off.

    Afterwards, each module's mode, each parameter's `requires_grad` and the global random states are restored. No
    `.grad` changes and no parameter hook fires, so DDP's reducer is not involved. Works inside `no_grad` and
    `inference_mode`.
    """
    # The flag itself and not eval(): train() may be overridden, and modules may be in different modes.
    modes = [(module, module.training) for module in network.modules()]
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    python_state, numpy_state = random.getstate(), np.random.get_state()
    device, _ = _device_and_dtype(network)
    try:
        for module, _ in modes:
            module.training = False
        network.requires_grad_(False)
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(device.type, enabled=False),
            torch.random.fork_rng([device] if device.type == "cuda" else []),
        ):
            yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
        for module, mode in modes:
            module.training = mode
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def at_home(images: Tensor, network: nn.Module) -> Tensor:
    """A copy of images (B, C, H, W) on the network's device and in its dtype.

    Call it inside `preserve_state`. A copy, since a network may write into its input, and since a tensor made in
    `inference_mode` cannot be part of a graph.
    """
    if images.ndim != 4:
        raise UserError(f"images: the shape must be (B, C, H, W), not {tuple(images.shape)}")
    device, dtype = _device_and_dtype(network)
    return images.detach().clone().to(device, dtype)


def _device_and_dtype(network: nn.Module) -> tuple[torch.device, torch.dtype]:
    first = next((parameter for parameter in network.parameters() if parameter.is_floating_point()), None)
    return (torch.device("cpu"), torch.float32) if first is None else (first.device, first.dtype)
