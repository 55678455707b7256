"""Losses by name, each against classes or against probabilities, with label smoothing and class weights."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from litlens.errors import UserError

Loss = Literal["cross_entropy", "binary_cross_entropy", "mse", "mae"]


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """float32 (B, K) targets of int64 (B,) classes."""
    return functional.one_hot(labels, num_classes).float()


def loss_and_weight(
    logits: Tensor,
    targets: Tensor,
    *,
    loss: Loss = "cross_entropy",
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor | int]:
    """The weighted mean of the samples' losses, and the sum of the weights, for a mean over batches.

    Logits (B, K), targets int64 (B,) or probabilities (B, K), class weights (K,). Cross-entropy sums over a
    sample's classes; binary cross-entropy on the logits, and MSE and MAE on their softmax, average over them,
    as torch and Keras do. Smoothing mixes the target with 1/K. A sample weighs what its class weighs, as in
    torch's cross-entropy; a mixed one the mean of its classes' weights.
    """
    if loss == "cross_entropy" and class_weights is None:
        mean = functional.cross_entropy(logits, targets, label_smoothing=label_smoothing)
        return mean, len(logits)
    num_classes = logits.shape[1]
    sharp = (one_hot(targets, num_classes) if targets.ndim == 1 else targets).to(logits.dtype)
    class_weights = None if class_weights is None else class_weights.to(logits.dtype)
    smooth = sharp * (1 - label_smoothing) + label_smoothing / num_classes if label_smoothing else sharp
    if loss == "cross_entropy":
        assert class_weights is not None  # else done above
        # The weight stands inside the sum: with smoothing torch weighs every class's share by that class.
        per_sample = -(class_weights * smooth * functional.log_softmax(logits, dim=1)).sum(dim=1)
        total = (sharp @ class_weights).sum()
        return per_sample.sum() / total, total
    if loss == "binary_cross_entropy":
        elements = functional.binary_cross_entropy_with_logits(logits, smooth, reduction="none")
    elif loss == "mse":
        elements = (logits.softmax(dim=1) - smooth).square()
    else:
        elements = (logits.softmax(dim=1) - smooth).abs()
    per_sample = elements.mean(dim=1)
    if class_weights is None:
        return per_sample.mean(), len(logits)
    weights = sharp @ class_weights
    return (weights * per_sample).sum() / weights.sum(), weights.sum()


def balanced_weights(labels: Tensor, class_names: list[str]) -> Tensor:
    """float32 (K,): N / (K · count), so that all classes weigh the same in total (scikit-learn's "balanced").

    Raises UserError for a class that no label is of.
    """
    counts = torch.bincount(labels, minlength=len(class_names))
    for name, count in zip(class_names, counts.tolist(), strict=True):
        if count == 0:
            raise UserError(f"model.class_weights: balanced, but no training image is of class {name}.")
    return len(labels) / (len(class_names) * counts).float()


def check_options(
    class_names: list[str],
    label_smoothing: float,
    class_weights: Literal["balanced"] | list[float] | None,
    not_negative: dict[str, float],
) -> None:
    """Raise UserError for weights, smoothing or amounts of penalty and mixing that cannot be."""
    if isinstance(class_weights, list) and len(class_weights) != len(class_names):
        raise UserError(
            f"model.class_weights: {len(class_weights)} weights for {len(class_names)} classes: give one for each."
        )
    if not 0 <= label_smoothing < 1:
        raise UserError(f"model.label_smoothing: {label_smoothing} is not from 0 to below 1.")
    for name, value in not_negative.items():
        if value < 0:
            raise UserError(f"model.{name}: {value} is negative.")
