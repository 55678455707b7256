"""MNIST by the recipe that lightning-hydra-template (2.0.3) publishes, as a plain script.

python template_recipe.py ROOT EPOCHS [BATCHES]

No hydra. A net of 784-64-128-64-10 with batch norm, Adam at 1e-3 with ReduceLROnPlateau, batches of 128 through
torchvision's MNIST without workers, 55,000/5,000/10,000 images, torchmetrics in every step, the best and the last
checkpoint, Rich's bar and summary, a CSV log, and a test of the best weights.
"""

import sys

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, RichModelSummary, RichProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, random_split
from torchmetrics import MaxMetric, MeanMetric
from torchmetrics.classification import MulticlassAccuracy
from torchvision.datasets import MNIST
from torchvision.transforms import Compose, Normalize, ToTensor


class Digits(LightningDataModule):
    """All 70,000 images, split at random."""

    def __init__(self, root: str) -> None:
        super().__init__()
        self.root = root

    def setup(self, stage: str) -> None:
        """Read the files and split them."""
        transform = Compose([ToTensor(), Normalize((0.1307,), (0.3081,))])
        images = ConcatDataset([MNIST(self.root, train=train, transform=transform) for train in (True, False)])
        shares = [11 / 14, 1 / 14, 2 / 14]
        self.train, self.val, self.test = random_split(images, shares, torch.Generator().manual_seed(42))

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Shuffled."""
        return DataLoader(self.train, batch_size=128, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """In order."""
        return DataLoader(self.val, batch_size=128)

    def test_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """In order."""
        return DataLoader(self.test, batch_size=128)


class Dense(LightningModule):
    """The net, with losses and accuracies logged by their torchmetrics."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        for incoming, width in ((784, 64), (64, 128), (128, 64)):
            layers += [nn.Linear(incoming, width), nn.BatchNorm1d(width), nn.ReLU()]
        self.net = nn.Sequential(*layers, nn.Linear(64, 10))
        self.losses = nn.ModuleDict({f"{split}_": MeanMetric() for split in ("train", "val", "test")})
        self.accuracies = nn.ModuleDict(
            {f"{split}_": MulticlassAccuracy(10, average="micro") for split in ("train", "val", "test")}
        )
        self.best = MaxMetric()

    def on_train_start(self) -> None:
        """Forget the check before the training."""
        for metric in (self.losses["val_"], self.accuracies["val_"], self.best):
            metric.reset()

    def _step(self, batch: tuple[Tensor, Tensor], split: str) -> Tensor:
        images, labels = batch
        logits = self.net(images)
        loss = nn.functional.cross_entropy(logits, labels)
        self.losses[f"{split}_"](loss)
        self.accuracies[f"{split}_"](logits.argmax(1), labels)
        for name, metrics in (("loss", self.losses), ("acc", self.accuracies)):
            self.log(f"{split}/{name}", metrics[f"{split}_"], on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Train on a batch."""
        return self._step(batch, "train")

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Validate a batch."""
        self._step(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Test a batch."""
        self._step(batch, "test")

    def on_validation_epoch_end(self) -> None:
        """Log the best accuracy so far."""
        self.best(self.accuracies["val_"].compute())
        self.log("val/acc_best", self.best.compute(), sync_dist=True, prog_bar=True)

    def configure_optimizers(self) -> dict[str, object]:
        """Adam, and a tenth of the rate where the loss stays."""
        optimizer = torch.optim.Adam(self.parameters(), lr=0.001)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=10)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val/loss"}}


def main(root: str, epochs: str, batches: str = "0") -> None:
    """Fit, and test the best."""
    seed_everything(42)
    best = ModelCheckpoint("checkpoints", monitor="val/acc", mode="max", save_last=True)
    callbacks = [best, EarlyStopping("val/acc", mode="max", patience=100), RichModelSummary(max_depth=-1)]
    trainer = Trainer(
        max_epochs=int(epochs),
        callbacks=[*callbacks, RichProgressBar()],
        logger=CSVLogger("."),
        **{f"limit_{split}_batches": int(batches) or 1.0 for split in ("train", "val", "test")},
    )
    data, module = Digits(root), Dense()
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, ckpt_path="best")


if __name__ == "__main__":
    main(*sys.argv[1:])
