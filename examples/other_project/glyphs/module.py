"""A small CNN with the steps that litlens' callbacks can draw."""

from lightning import LightningModule
from torch import Tensor, nn, optim
from torchmetrics.functional.classification import multiclass_accuracy

Batch = tuple[Tensor, Tensor]


class GlyphClassifier(LightningModule):
    """Classifies gray images of any size.

    Args:
        num_classes: The number of classes.
        width: Channels of the first convolution.
        lr: The learning rate of Adam.
    """

    def __init__(self, num_classes: int, width: int = 16, lr: float = 0.003) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr = lr
        self.network = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(32 * width, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits (B, K) of images (B, 1, H, W)."""
        logits: Tensor = self.network(images)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Compute the loss of a batch."""
        images, labels = batch
        loss = nn.functional.cross_entropy(self(images), labels)
        self.log("loss/train", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Log loss and accuracy, and return what the callbacks draw."""
        return self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Log loss and accuracy, and return what the callbacks draw."""
        return self._evaluate(batch, "test")

    def configure_optimizers(self) -> optim.Optimizer:
        """Train all weights with Adam."""
        return optim.Adam(self.parameters(), lr=self.lr)

    def _evaluate(self, batch: Batch, split: str) -> dict[str, Tensor]:
        images, labels = batch
        logits = self(images)
        accuracy = multiclass_accuracy(logits, labels, logits.shape[1], average="micro")
        self.log_dict({f"loss/{split}": nn.functional.cross_entropy(logits, labels), f"accuracy/{split}": accuracy})
        return {"logits": logits, "labels": labels}
