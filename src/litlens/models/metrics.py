"""What is counted in training and evaluation: per sample, exact on ranks with different numbers of batches."""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import multiclass_confusion_matrix

_AT_ONCE = 64  # training batches whose predictions are counted together


class PassMetrics(Metric):
    """The loss and the confusion matrix of one pass over a split, from which accuracy and F1 follow.

    `confusion` is int64 (K, K) with true classes in rows. One loss of NaN makes the mean NaN, so that it is noticed.
    """

    loss: Tensor
    weight: Tensor
    confusion: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.add_state("loss", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("weight", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("confusion", torch.zeros(num_classes, num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, *, loss: Tensor, weight: Tensor | int, logits: Tensor, labels: Tensor) -> None:
        """Count one batch: its mean loss and the weight of that, logits (B, K) and labels (B,)."""
        self.loss += loss * weight
        self.weight += weight
        self.confusion += multiclass_confusion_matrix(logits, labels, self.num_classes, validate_args=False)

    @property
    def update_called(self) -> bool:
        """Whether there are sums: always, so that a device without images causes no warning."""
        return True

    def compute(self) -> dict[str, Tensor]:
        """Compute the mean `loss`, `accuracy`, and `f1`, the mean over the classes that occur or are predicted."""
        hits = self.confusion.diagonal()
        f1 = 2 * hits / (self.confusion.sum(dim=0) + self.confusion.sum(dim=1))
        return {
            "loss": self.loss / self.weight,
            "accuracy": hits.sum() / self.confusion.sum(),
            "f1": f1.nanmean(),
        }


@dataclass
class EpochSums:
    """The training epoch so far: tensors on the device, so that no step waits for them.

    A torchmetrics update costs as much as a small network's step. So does each operation that a GPU is given there: of
    many batches, the predictions are compared with the labels at once.
    """

    loss: Tensor | float = 0.0
    weight: Tensor | float = 0.0
    correct: Tensor | float = 0.0
    seen: float = 0.0
    _uncounted: list[tuple[Tensor, Tensor]] = field(default_factory=list, init=False)

    def add(self, *, loss: Tensor, weight: Tensor | int, logits: Tensor, labels: Tensor) -> None:
        """Count one batch: its mean loss and the weight of that, logits (B, K) and labels (B,)."""
        self.loss = self.loss + loss.detach() * weight
        self.weight = self.weight + weight
        self._uncounted.append((logits.detach().argmax(dim=1), labels))
        self.seen += len(labels)
        if len(self._uncounted) == _AT_ONCE:
            self._count()

    def _count(self) -> None:
        predicted, labels = map(torch.cat, zip(*self._uncounted, strict=True))
        self.correct = self.correct + (predicted == labels).sum()
        self._uncounted.clear()

    def to_dict(self) -> dict[str, float]:
        """Plain numbers for a checkpoint."""
        if self._uncounted:
            self._count()
        sums = {"loss": self.loss, "weight": self.weight, "correct": self.correct, "seen": self.seen}
        return {name: float(value) for name, value in sums.items()}
