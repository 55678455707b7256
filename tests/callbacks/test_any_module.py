"""Every callback on foreign modules: it works, or it reports in one line, once, what is missing."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import litlens.callbacks
from litlens.callbacks.live import score_figures

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*is an instance of `nn.Module`")

SETTINGS: dict[str, dict[str, Any]] = {"RunningAverage": {"decay": 0.9}}
NEEDS_LOGITS = {"CollectPredictions", "ConfusionMatrix", "PerClassMetrics", "PrecisionRecallCurves", "WrongSamples"}
NEEDS_FORWARD = {"FeatureMaps", "GradCam", "Histograms", "ModelGraph", "PredictionGrid"}
TAGS = {
    "ConfusionMatrix": "confusion_matrix/val",
    "FeatureMaps": "feature_maps/val",
    "GradCam": "grad_cam/val",
    "PrecisionRecallCurves": "precision_recall/val",
    "PredictionGrid": "prediction_grid/val",
    "WrongSamples": "wrong_samples/val",
}


class Theirs(LightningModule):
    """Logs under its own names and has no class names; its steps return only the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.save_hyperparameters({"width": 4, "activation": nn.ReLU()})
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))

    def step(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        images, labels = batch
        logits = self.body(images)
        return nn.functional.cross_entropy(logits, labels), logits, labels

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss, _, _ = self.step(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        loss, _, _ = self.step(batch)
        self.log("val_loss", loss)
        return loss

    test_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class TheirsWithOutputs(Theirs):
    """Has a forward, and returns logits and labels."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.body(images)
        return logits

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        _, logits, labels = self.step(batch)
        return {"logits": logits, "labels": labels}

    test_step = validation_step


class TheirsOfDictionaries(Theirs):
    """Takes batches that are dictionaries."""

    def step(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return super().step((batch["image"], batch["label"]))


class TheirData(LightningDataModule):
    """Knows the names of its classes."""

    class_names = ("a", "b", "c")

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(torch.randn(8, 1, 8, 8), torch.arange(8) % 3), batch_size=4)


class Pairs(TensorDataset):
    """Eight images and labels, as dictionaries."""

    def __getitem__(self, index: int) -> Any:
        image, label = super().__getitem__(index)
        return {"image": image, "label": label}


def run(module: LightningModule, name: str, folder: Path, kind: type[TensorDataset] = TensorDataset) -> Any:
    """Fit two epochs and test with one callback."""
    torch.manual_seed(0)
    loader = DataLoader(kind(torch.randn(8, 1, 8, 8), torch.arange(8) % 3), batch_size=4)
    callback = getattr(litlens.callbacks, name)(**SETTINGS.get(name, {}))
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=TensorBoardLogger(folder, name="", version="", default_hp_metric=False),
        callbacks=[callback],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        log_every_n_steps=1,
    )
    trainer.fit(module, loader, loader)
    trainer.test(module, loader, verbose=False)
    trainer.save_checkpoint(folder / "x.ckpt")
    return callback


@pytest.mark.parametrize("name", litlens.callbacks.__all__)
@pytest.mark.parametrize(
    ("module", "kind", "silent"),
    [
        pytest.param(Theirs, TensorDataset, NEEDS_LOGITS | NEEDS_FORWARD, id="only the loss"),
        pytest.param(TheirsOfDictionaries, Pairs, NEEDS_LOGITS | NEEDS_FORWARD, id="dictionaries"),
        pytest.param(TheirsWithOutputs, TensorDataset, set(), id="logits and labels"),
    ],
)
def test_it_works_or_reports_once_what_is_missing(
    name: str, module: Any, kind: Any, silent: set[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "litlens"):
        run(module(), name, tmp_path, kind)
    said = [record.getMessage() for record in caplog.records if record.name.startswith("litlens")]
    wanted = name in silent or name == "LearningCurves"  # which finds none of its names among what is logged
    assert [line.partition(":")[0] for line in said] == [name] * wanted
    assert all(("\n" not in line and "should" in line) or "none of" in line or "batches" in line for line in said)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    shown = events.Tags()["images"]
    if name in TAGS:
        assert (TAGS[name] in shown) is (name not in silent)


def test_confusion_matrix_counts_what_the_steps_return(tmp_path: Path, spy: Any) -> None:
    drawn = spy(score_figures, "confusion_matrix_figure")
    module = TheirsWithOutputs()
    run(module, "ConfusionMatrix", tmp_path)
    torch.manual_seed(0)
    images, labels = torch.randn(8, 1, 8, 8), torch.arange(8) % 3
    with torch.no_grad():
        predicted = module.body(images).argmax(1)
    expected = [[int(((labels == row) & (predicted == column)).sum()) for column in range(3)] for row in range(3)]
    assert drawn[-1]["counts"].tolist() == expected
    assert drawn[-1]["class_names"] == ["0", "1", "2"]


def test_classes_have_the_names_that_the_data_module_gives(tmp_path: Path, spy: Any) -> None:
    drawn = spy(score_figures, "confusion_matrix_figure")
    trainer = Trainer(
        accelerator="cpu",
        logger=TensorBoardLogger(tmp_path),
        callbacks=[litlens.callbacks.ConfusionMatrix()],
        enable_progress_bar=False,
    )
    trainer.test(TheirsWithOutputs(), datamodule=TheirData(), verbose=False)
    assert drawn[-1]["class_names"] == ["a", "b", "c"]


def test_public_names_are_class_paths() -> None:
    from jsonargparse import ArgumentParser
    from lightning.pytorch import Callback

    parser = ArgumentParser()
    parser.add_argument("--callbacks", type=list[Callback])
    for name in set(litlens.callbacks.__all__) - {"RunningAverage"}:
        parsed = parser.parse_args([f"--callbacks+=litlens.callbacks.{name}"])
        assert type(parser.instantiate(parsed).callbacks[0]) is getattr(litlens.callbacks, name)
