"""What is counted in training and evaluation: per sample, by torchmetrics, exact on uneven ranks."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)


class PassMetrics(nn.Module):
    """All that is counted in one pass over a split; its states are in no checkpoint.

    `classes` holds `accuracy` over all samples and `f1`, the macro mean, and for each class, (K,),
    `precision_per_class`, `recall_per_class`, `f1_per_class`; `confusion` the matrix (K, K), true classes in
    rows.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.loss = WeightedMean()
        self.classes = MetricCollection(
            {
                "accuracy": MulticlassAccuracy(num_classes, average="micro", validate_args=False),
                "f1": MulticlassF1Score(num_classes, average="macro", validate_args=False),
                "precision_per_class": MulticlassPrecision(num_classes, average=None, validate_args=False),
                "recall_per_class": MulticlassRecall(num_classes, average=None, validate_args=False),
                "f1_per_class": MulticlassF1Score(num_classes, average=None, validate_args=False),
            }
        )
        self.confusion = MulticlassConfusionMatrix(num_classes, validate_args=False)

    def update(self, *, loss: Tensor, weight: Tensor | int, logits: Tensor, labels: Tensor) -> None:
        """Counts one batch: its mean loss with what that weighs, logits (B, K) and labels (B,)."""
        self.loss.update(loss, weight)
        self.classes.update(logits, labels)
        self.confusion.update(logits, labels)

    def reset(self) -> None:
        """Forgets the pass."""
        self.loss.reset()
        self.classes.reset()
        self.confusion.reset()


class WeightedMean(Metric):
    """A weighted mean that lets NaN through, so that a broken loss shows.

    torchmetrics' MeanMetric drops NaN by default, and with `nan_strategy="disable"` the weights (in 1.9).
    """

    total: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("weight", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, value: Tensor | float, weight: Tensor | float) -> None:
        """Adds a value that weighs so much."""
        self.total += value * weight
        self.weight += weight

    def compute(self) -> Tensor:
        """The mean so far."""
        return self.total / self.weight


@dataclass
class EpochSums:
    """The training epoch so far: tensors on the device, so that no step waits for them.

    A torchmetrics update costs as much as a small network's step; its metrics get the epoch's totals, once.
    """

    loss: Tensor | float = 0.0
    weight: Tensor | float = 0.0
    correct: Tensor | float = 0.0
    seen: float = 0.0

    def add(self, *, loss: Tensor, weight: Tensor | int, logits: Tensor, labels: Tensor) -> None:
        """Counts one batch: its mean loss, what that weighs, and how many the logits get right."""
        self.loss = self.loss + loss.detach() * weight
        self.weight = self.weight + weight
        self.correct = self.correct + (logits.detach().argmax(dim=1) == labels).sum()
        self.seen += len(labels)

    def to_dict(self) -> dict[str, float]:
        """Plain numbers for a checkpoint."""
        return {name: float(value) for name, value in vars(self).items()}
