"""Losses by name, for targets that are classes or probabilities, with label smoothing and class weights."""

import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from litlens.errors import UserError, nearest

Loss = Literal["cross_entropy", "binary_cross_entropy", "mse", "mae"]
ClassWeights: TypeAlias = Literal["balanced"] | list[float] | dict[str, float] | None


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
    """Compute the weighted mean of the samples' losses, and the sum of their weights, for means over batches.

    Logits (B, K), targets int64 (B,) or probabilities (B, K), class weights (K,). Cross-entropy sums over the classes
    of a sample; binary cross-entropy of the logits, and MSE and MAE of their softmax, average over them, as torch and
    Keras do. Smoothing mixes the target with 1/K. A sample has the weight of its class, as in torch's cross-entropy,
    and a mixed sample the mean of its classes' weights.
    """
    if loss == "cross_entropy" and class_weights is None:
        return functional.cross_entropy(logits, targets, label_smoothing=label_smoothing), len(logits)
    num_classes = logits.shape[1]
    shares = (one_hot(targets, num_classes) if targets.ndim == 1 else targets).to(logits.dtype)
    smooth = shares * (1 - label_smoothing) + label_smoothing / num_classes if label_smoothing else shares
    class_weights = torch.ones_like(logits[0]) if class_weights is None else class_weights.to(logits)
    weights = (shares * class_weights).sum(dim=1)  # autocast would round those of a matrix product to bf16
    if loss == "cross_entropy":
        # The class weights are inside the sum: with smoothing, torch weights the share of every class by that class.
        weighted = -(class_weights * smooth * functional.log_softmax(logits, dim=1)).sum(dim=1)
    elif loss == "binary_cross_entropy":
        elements = functional.binary_cross_entropy_with_logits(logits, smooth, reduction="none")
        weighted = weights * elements.mean(dim=1)
    else:
        errors = logits.softmax(dim=1) - smooth
        weighted = weights * (errors.square() if loss == "mse" else errors.abs()).mean(dim=1)
    return weighted.sum() / weights.sum(), weights.sum()


def balanced_weights(labels: Tensor, class_names: list[str]) -> Tensor:
    """N / (K · count) of each class, float32 (K,): all classes have the same total weight (scikit-learn's "balanced").

    Raises UserError for a class without labels.
    """
    counts = torch.bincount(labels, minlength=len(class_names))
    for name, count in zip(class_names, counts.tolist(), strict=True):
        if count == 0:
            raise UserError(
                f"model.class_weights: balanced: class {name} has no training image: give a list of weights"
            )
    return len(labels) / (len(class_names) * counts).float()


def given_weights(class_weights: ClassWeights, class_names: list[str]) -> Tensor | None:
    """The weight of each class, float32 (K,), from a list or by name, where the others have 1; None if none are given.

    Raises UserError for a list of another length, a name of no class, and a weight that is not positive.
    """
    if isinstance(class_weights, dict):
        by_name = {str(name): weight for name, weight in class_weights.items()}  # YAML reads a class `7` as a number
        for name in by_name:
            if name not in class_names:
                raise UserError(f"model.class_weights: there is no class '{name}'{nearest(name, class_names)}")
        class_weights = [by_name.get(name, 1.0) for name in class_names]
    if not isinstance(class_weights, list):
        return None
    if len(class_weights) != len(class_names):
        raise UserError(
            f"model.class_weights: {len(class_weights)} weights for {len(class_names)} classes: give one per class"
        )
    for name, weight in zip(class_names, class_weights, strict=True):
        if not 0 < weight < math.inf:
            raise UserError(f"model.class_weights: {weight} for class {name}: give numbers above 0")
    return torch.tensor(class_weights, dtype=torch.float32)


def check_options(label_smoothing: float, not_negative: dict[str, float]) -> None:
    """Raise UserError for values out of range."""
    if not 0 <= label_smoothing < 1:
        raise UserError(f"model.label_smoothing: {label_smoothing}: give a number from 0 to below 1")
    for name, value in not_negative.items():
        if value < 0:
            raise UserError(f"model.{name}: {value}: give 0 or more")
