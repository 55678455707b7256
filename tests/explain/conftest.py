"""Networks and a fingerprint of everything that explaining must not change."""

import hashlib
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

Fingerprint = Callable[[nn.Module], dict[str, Any]]


class InplaceNet(nn.Module):
    """Like VGG, in-place ReLUs after convolutions, with BatchNorm and Dropout, which eval mode is for."""

    def __init__(self, in_channels: int = 3, num_classes: int = 5) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 8, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(inplace=True),
            nn.Dropout(0.3),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.ReLU(inplace=True),
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits


@pytest.fixture
def inplace_net() -> InplaceNet:
    torch.manual_seed(1)
    return InplaceNet()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 24, 20, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def fingerprint() -> Fingerprint:
    return _fingerprint


def _fingerprint(network: nn.Module) -> dict[str, Any]:
    hook_kinds = [kind for kind in vars(nn.Module()) if kind.endswith("hooks")]
    return {
        "weights": [_digest(value) for value in network.state_dict().values()],
        "gradients": [(id(p.grad), p.grad if p.grad is None else _digest(p.grad)) for p in network.parameters()],
        "requires_grad": [p.requires_grad for p in network.parameters()],
        "parameters": [id(p) for p in network.parameters()],
        "modules": [(name, id(module)) for name, module in network.named_modules()],
        "modes": [module.training for module in network.modules()],
        "hooks": [len(getattr(module, kind)) for module in network.modules() for kind in hook_kinds],
        "attributes": [sorted(vars(module)) for module in network.modules()],
        "torch": _digest(torch.get_rng_state()),
        "numpy": hashlib.sha256(np.random.get_state()[1].tobytes()).hexdigest(),
        "python": random.getstate(),
        "grad_mode": (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled("cpu"),
        ),
    }


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.detach().contiguous().numpy().tobytes()).hexdigest()
