"""Losses against torch, numpy and values worked out by hand."""

import math

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional

from litlens.errors import UserError
from litlens.models.losses import balanced_weights, loss_and_weight, one_hot

LOSSES = ["cross_entropy", "binary_cross_entropy", "mse", "mae"]


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def labels() -> torch.Tensor:
    return torch.tensor([0, 1, 2, 3, 3, 1, 0])


WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        # logits (ln 3, 0), class 0: softmax (3/4, 1/4), sigmoids (3/4, 1/2)
        ("cross_entropy", math.log(4 / 3)),
        ("binary_cross_entropy", (math.log(4 / 3) + math.log(2)) / 2),
        ("mse", 1 / 16),
        ("mae", 1 / 4),
    ],
)
def test_by_hand(loss: str, expected: float) -> None:
    value, weight = loss_and_weight(torch.tensor([[math.log(3), 0.0]]), torch.tensor([0]), loss=loss)
    assert value.item() == pytest.approx(expected, rel=1e-6)
    assert weight == 1


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy_is_torchs(logits, labels, smoothing: float, weights: torch.Tensor | None) -> None:
    value, weight = loss_and_weight(logits, labels, label_smoothing=smoothing, class_weights=weights)
    torch.testing.assert_close(
        value, functional.cross_entropy(logits, labels, weight=weights, label_smoothing=smoothing)
    )
    assert float(weight) == pytest.approx(7 if weights is None else weights[labels].sum().item())


def test_against_torchs_means(logits, labels) -> None:
    targets = one_hot(labels, 4).double()
    shares = logits.softmax(1)
    expected = {
        "binary_cross_entropy": functional.binary_cross_entropy_with_logits(logits, targets),
        "mse": functional.mse_loss(shares, targets),
        "mae": functional.l1_loss(shares, targets),
    }
    for loss, value in expected.items():
        torch.testing.assert_close(loss_and_weight(logits, labels, loss=loss)[0], value, rtol=1e-6, atol=0)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_classes_are_one_hot_probabilities(logits, labels, loss: str, smoothing: float, weights) -> None:
    settings = {"loss": loss, "label_smoothing": smoothing, "class_weights": weights}
    by_class = loss_and_weight(logits, labels, **settings)[0]
    by_share = loss_and_weight(logits, one_hot(labels, 4).double(), **settings)[0]
    torch.testing.assert_close(by_class, by_share, rtol=1e-6, atol=0)


@pytest.mark.parametrize("loss", LOSSES)
def test_mixed_targets_with_everything_on(logits, labels, loss: str) -> None:
    """Against numpy, written out sample by sample."""
    mixed = (0.7 * one_hot(labels, 4) + 0.3 * one_hot(labels.roll(1), 4)).double()
    total = weight = 0.0
    for z, t in zip(logits.numpy(), mixed.numpy(), strict=True):
        smooth = t * 0.9 + 0.1 / 4
        p, s, w = np.exp(z) / np.exp(z).sum(), 1 / (1 + np.exp(-z)), WEIGHTS.numpy()
        total += {
            "cross_entropy": -(w * smooth * np.log(p)).sum(),
            "binary_cross_entropy": -(smooth * np.log(s) + (1 - smooth) * np.log(1 - s)).mean() * (w @ t),
            "mse": ((p - smooth) ** 2).mean() * (w @ t),
            "mae": np.abs(p - smooth).mean() * (w @ t),
        }[loss]
        weight += w @ t
    value, counted = loss_and_weight(logits, mixed, loss=loss, label_smoothing=0.1, class_weights=WEIGHTS)
    assert value.item() == pytest.approx(total / weight, rel=1e-6)
    assert counted.item() == pytest.approx(weight, rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_means_over_batches_are_the_mean_over_all(logits, labels, loss: str, weights) -> None:
    whole = loss_and_weight(logits, labels, loss=loss, class_weights=weights)[0]
    parts = [
        loss_and_weight(logits[rows], labels[rows], loss=loss, class_weights=weights)
        for rows in (slice(0, 5), slice(5, 7))
    ]
    mean = sum(value * weight for value, weight in parts) / sum(weight for _, weight in parts)
    torch.testing.assert_close(mean, whole)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("weights", [None, torch.tensor([0.3, 1.0, 1.7, 2.9])])
def test_autocast_does_not_round_the_sum_of_the_weights(loss: str, weights) -> None:
    logits, labels = torch.randn(301, 4, generator=torch.Generator().manual_seed(0)), torch.arange(301) % 4
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, weight = loss_and_weight(logits, labels, loss=loss, class_weights=weights)
    assert float(weight) == pytest.approx(301 if weights is None else weights[labels].sum().item(), rel=1e-6)
    assert value.item() == pytest.approx(loss_and_weight(logits, labels, loss=loss, class_weights=weights)[0].item())


def test_balanced_weights_are_scikit_learns() -> None:
    labels = np.array([0] * 5 + [1] * 2 + [2] * 9)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    found = balanced_weights(torch.from_numpy(labels), ["a", "b", "c"])
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    with pytest.raises(UserError, match="class d"):
        balanced_weights(torch.from_numpy(labels), ["a", "b", "c", "d"])
