"""A small classifier that logs what litlens' classifiers log, and trainers to run callbacks in."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy


class Small(LightningModule):
    """A linear classifier of four numbers into three classes, logging at the end of the epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.class_names = ["a", "b", "c"]
        self.layer = torch.nn.Linear(4, 3)
        splits = ("train", "val", "test")
        self.losses = torch.nn.ModuleDict({f"_{split}": MeanMetric() for split in splits})
        self.accuracies = torch.nn.ModuleDict({f"_{split}": MulticlassAccuracy(3, average="micro") for split in splits})

    def _step(self, batch: Any, split: str) -> dict[str, torch.Tensor]:
        logits, labels = self.layer(batch[0]), batch[1]
        loss = torch.nn.functional.cross_entropy(logits, labels)
        self.losses[f"_{split}"].update(loss.detach(), len(labels))
        self.accuracies[f"_{split}"].update(logits, labels)
        return {"loss": loss, "logits": logits.detach(), "labels": labels}

    def _end(self, split: str) -> None:
        self.log(f"loss/{split}", self.losses[f"_{split}"].compute())
        self.log(f"accuracy/{split}", self.accuracies[f"_{split}"].compute())
        self.losses[f"_{split}"].reset()
        self.accuracies[f"_{split}"].reset()

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, torch.Tensor]:
        return self._step(batch, "train")

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, torch.Tensor]:
        return self._step(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> dict[str, torch.Tensor]:
        return self._step(batch, "test")

    def on_train_epoch_end(self) -> None:
        self._end("train")

    def on_validation_epoch_end(self) -> None:
        self._end("val")

    def on_test_epoch_end(self) -> None:
        self._end("test")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def data(size: int = 30, seed: int = 0) -> TensorDataset:
    images = torch.randn(size, 4, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(images, images[:, :3].argmax(dim=1))


def loader(size: int = 30, seed: int = 0, batch_size: int = 10) -> DataLoader[Any]:
    return DataLoader(data(size, seed), batch_size=batch_size)


@pytest.fixture
def small() -> Callable[[], Small]:
    """Gives equal modules."""

    def build() -> Small:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return Small()

    return build


@pytest.fixture
def samples() -> Callable[..., DataLoader[Any]]:
    """Gives `samples(size, seed, batch_size)`, a loader that never shuffles."""
    return loader


@pytest.fixture
def trainer(tmp_path: Path) -> Callable[..., Trainer]:
    """Gives `trainer(*callbacks, **settings)`: quiet, on the CPU, no loggers, no checkpoints."""

    def build(*callbacks: Callback, **settings: Any) -> Trainer:
        quiet = {
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": tmp_path,
            "log_every_n_steps": 1,
        }
        return Trainer(callbacks=list(callbacks), **{**quiet, **settings})

    return build


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, str], list[dict[str, Any]]]:
    """Gives `spy(module, function)`, the arguments by name of every call from now on."""

    def watch(module: Any, name: str) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []
        function = getattr(module, name)

        def noted(*args: Any, **kwargs: Any) -> Any:
            calls.append(dict(inspect.signature(function).bind(*args, **kwargs).arguments))
            return function(*args, **kwargs)

        monkeypatch.setattr(module, name, noted)
        return calls

    return watch
