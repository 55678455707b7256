"""What is counted while a classifier trains and is evaluated: per sample, by torchmetrics, exact on uneven ranks."""

from dataclasses import dataclass

from torch import Tensor
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)


def class_metrics(num_classes: int) -> MetricCollection:
    """Accuracy over all samples and macro F1; precision, recall and F1 of each class, (K,). They share their counts."""
    return MetricCollection(
        {
            "accuracy": MulticlassAccuracy(num_classes, average="micro", validate_args=False),
            "f1": MulticlassF1Score(num_classes, average="macro", validate_args=False),
            "precision_per_class": MulticlassPrecision(num_classes, average=None, validate_args=False),
            "recall_per_class": MulticlassRecall(num_classes, average=None, validate_args=False),
            "f1_per_class": MulticlassF1Score(num_classes, average=None, validate_args=False),
        }
    )


def mean_metric() -> MeanMetric:
    """A weighted mean that lets NaN through; torchmetrics' default leaves NaN out, which hides a broken loss."""
    return MeanMetric(nan_strategy="disable")


@dataclass
class EpochSums:
    """The training epoch so far: tensors on the device, so that no step waits for them.

    A torchmetrics update costs 100 µs and more, these four additions about 10; the metrics get the totals, once.
    """

    loss: Tensor | float = 0.0
    weight: Tensor | float = 0.0
    correct: Tensor | float = 0.0
    seen: int = 0

    def add(self, *, loss: Tensor, weight: Tensor | int, logits: Tensor, labels: Tensor) -> None:
        """Counts one batch: the mean loss, what it weighs, and the classes that the logits get right."""
        self.loss = self.loss + loss.detach() * weight
        self.weight = self.weight + weight
        self.correct = self.correct + (logits.detach().argmax(dim=1) == labels).sum()
        self.seen += len(labels)

    def to_dict(self) -> dict[str, float]:
        """Plain numbers for a checkpoint."""
        return {name: float(value) for name, value in vars(self).items()}
