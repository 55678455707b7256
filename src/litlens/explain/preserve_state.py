"""Looking at a network without leaving a trace: what is switched is put back, whatever happens."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from litlens.errors import UserError


def plain(network: nn.Module) -> nn.Module:
    """The network without DDP (its forward may talk to other ranks) and `torch.compile` (it skips hooks)."""
    while True:
        if isinstance(network, DistributedDataParallel):
            network = network.module
        elif isinstance(original := getattr(network, "_orig_mod", None), nn.Module):
            network = original
        else:
            return network


@contextmanager
def preserve_state(network: nn.Module) -> Iterator[None]:
    """Within: every module in eval mode, no parameter wanting gradients, autocast off, gradients on.

    Afterwards each module's mode, each parameter's `requires_grad` and the global random states are as
    before. No `.grad` changes, and no hook of a parameter fires, so DDP's reducer notices nothing. Works
    inside `no_grad` and `inference_mode`.
    """
    # The flag itself and not eval(): train() may be overridden, and modules may be in different modes.
    modes = [(module, module.training) for module in network.modules()]
    wanting = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    python_state, numpy_state = random.getstate(), np.random.get_state()
    device = _home(network)[0]
    forked = [device] if device.type == "cuda" else []
    try:
        for module, _ in modes:
            module.training = False
        network.requires_grad_(False)
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(device.type, enabled=False),
            torch.random.fork_rng(forked),
        ):
            yield
    finally:
        for parameter, wants in wanting:
            parameter.requires_grad_(wants)
        for module, mode in modes:
            module.training = mode
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def at_home(images: Tensor, network: nn.Module) -> Tensor:
    """A copy of images (B, C, H, W) on the network's device and in its number format.

    Call it inside `preserve_state`. A copy, since a network may write into its input, and since a tensor made in
    `inference_mode` has no place in a graph.
    """
    if images.ndim != 4:
        raise UserError(f"images must have the shape (B, C, H, W), these have {tuple(images.shape)}")
    device, dtype = _home(network)
    return images.detach().clone().to(device, dtype)


def _home(network: nn.Module) -> tuple[torch.device, torch.dtype]:
    floating = (parameter for parameter in network.parameters() if parameter.is_floating_point())
    first = next(floating, None)
    return (torch.device("cpu"), torch.float32) if first is None else (first.device, first.dtype)
