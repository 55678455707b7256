"""A classifier of three classes, its 23 images, and a trainer that says and keeps nothing."""

from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

from litlens.models.classifier import ImageClassifier
from litlens.models.networks.mlp import MLP

NAMES = ["a", "b", "c"]


class Data(LightningDataModule):
    """23 random images of three classes in batches of 8, 8, 7; val and test are the same by fives."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.images = torch.randn(23, 1, 12, 12, generator=draw)
        self.labels = torch.randint(3, (23,), generator=draw)

    def samples(self, split: str) -> Any:
        return SimpleNamespace(labels=self.labels.numpy())

    def _loader(self, batch_size: int) -> DataLoader:
        return DataLoader(TensorDataset(self.images, self.labels), batch_size=batch_size)

    def train_dataloader(self) -> DataLoader:
        return self._loader(8)

    def val_dataloader(self) -> DataLoader:
        return self._loader(5)

    def test_dataloader(self) -> DataLoader:
        return self._loader(5)


def trainer(**settings: Any) -> Trainer:
    return Trainer(
        **{
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "max_epochs": 1,
            **settings,
        }
    )


def small(**settings: Any) -> ImageClassifier:
    network = MLP(num_classes=3, image_size=(12, 12), widths=[16], activation="tanh")
    return ImageClassifier(network, NAMES, **settings)
