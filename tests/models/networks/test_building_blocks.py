"""Initializations against their formulas, and against torch's own functions where torch has them."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from litlens.models.networks.building_blocks import initialize

FAN_IN, FAN_OUT = 3 * 3 * 50, 3 * 3 * 200


@pytest.mark.parametrize(
    ("activation", "gain"),
    [("relu", math.sqrt(2)), ("tanh", 5 / 3), ("sigmoid", 1), ("linear", 1), ("selu", 1)],
)
@pytest.mark.parametrize(
    ("initialization", "variance"),
    [
        ("xavier_uniform", 2 / (FAN_IN + FAN_OUT)),
        ("xavier_normal", 2 / (FAN_IN + FAN_OUT)),
        ("he_uniform", 1 / FAN_IN),
        ("he_normal", 1 / FAN_IN),
    ],
)
def test_standard_deviation_and_bounds(initialization: str, variance: float, activation: str, gain: float) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(50, 200, 3)
    initialize(layer, initialization, activation)
    deviation = gain * math.sqrt(variance)
    # 90,000 values: the deviation's own standard error is 0.24 %.
    assert layer.weight.std().item() == pytest.approx(deviation, rel=0.01)
    assert abs(layer.weight.mean().item()) < 0.02 * deviation
    largest = layer.weight.abs().max().item()
    if initialization.endswith("uniform"):
        assert 0.999 * math.sqrt(3) * deviation < largest <= math.sqrt(3) * deviation
    else:
        assert 3.5 * deviation < largest < 6 * deviation
    assert layer.bias.eq(0).all()


@pytest.mark.parametrize("activation", ["relu", "silu", "mish", "selu"])
def test_gain_keeps_the_second_moment(activation: str) -> None:
    """E[f(g·z)²]-preserving: one over the root of the integral of f(z)² over the normal density."""
    z = np.linspace(-12, 12, 1_000_001)
    values = {
        "relu": np.maximum(z, 0),
        "silu": z / (1 + np.exp(-z)),
        "mish": z * np.tanh(np.log1p(np.exp(z))),
        "selu": 1.0507009873554805 * np.where(z > 0, z, 1.6732632423543772 * np.expm1(np.minimum(z, 0))),
    }[activation]
    moment = float(np.sum(values**2 * np.exp(-z * z / 2)) * (z[1] - z[0]) / math.sqrt(2 * math.pi))
    torch.manual_seed(0)
    layer = nn.Linear(400, 1000)
    initialize(layer, "he_uniform", activation)
    assert layer.weight.abs().max().item() == pytest.approx(math.sqrt(3 / 400 / moment), rel=1e-3)


def test_batch_norm_does_not_change_and_none_keeps_torchs_own() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    nn.init.constant_(module[1].weight, 0.7)
    nn.init.constant_(module[1].bias, 0.3)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    initialize(module, None, "relu")
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    initialize(module, "he_normal", "relu")
    assert module[1].weight.eq(0.7).all()
    assert module[1].bias.eq(0.3).all()
    assert not torch.equal(module[0].weight, before["0.weight"])


def test_he_uniform_is_torchs_kaiming_uniform() -> None:
    ours, theirs = nn.Conv2d(5, 6, 3), nn.Conv2d(5, 6, 3)
    torch.manual_seed(3)
    initialize(ours, "he_uniform", "relu")
    torch.manual_seed(3)
    nn.init.kaiming_uniform_(theirs.weight, nonlinearity="relu")
    torch.testing.assert_close(ours.weight, theirs.weight)
