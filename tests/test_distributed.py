"""Several processes give the numbers of one: each sample is counted once, whatever the sizes."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from process_group import in_processes
from small_classifier import trainer
from torch import distributed, nn
from torch.nn.functional import cross_entropy

from litlens.callbacks.collect_predictions import CollectPredictions
from litlens.callbacks.running_average import RunningAverage
from litlens.data.module import ImageDataModule
from litlens.data.split import ArrayImages, Split
from litlens.models.classifier import ImageClassifier
from litlens.models.networks.mlp import MLP

SIZES, BATCH_SIZES = range(1, 18), range(1, 7)
pytestmark = pytest.mark.filterwarnings("ignore:.*is multi-threaded")


class Random(ImageDataModule):
    """Random images of three classes: twelve for training, and the first `size` of 17 for validation and test."""

    size = 17

    def __init__(self, **options: Any) -> None:
        super().__init__(normalize="half", **options)
        self.class_names, self.in_channels, self.image_size = ["a", "b", "c"], 1, (3, 3)

    def load(self) -> dict[str, Split]:
        rng = np.random.default_rng(0)
        images = ArrayImages(rng.integers(256, size=(46, 3, 3, 1), dtype=np.uint8))
        labels, names = rng.integers(3, size=46), [f"{row}.png" for row in range(46)]
        every = Split(images, np.arange(46), labels, names)
        train, val, test = np.split(np.arange(46), [12, 29])
        return {"train": every.at(train), "val": every.at(val), "test": every.at(test)}

    def samples(self, split: str) -> Split:
        found = super().samples(split)
        return found if split == "train" else found.at(np.arange(self.size))


def classifier(**options: Any) -> ImageClassifier:
    torch.manual_seed(0)
    return ImageClassifier(MLP(3, 1, (3, 3), widths=[8], **options), ["a", "b", "c"])


def on(number: int, **settings: Any) -> Trainer:
    return trainer(devices=number, strategy="ddp" if number > 1 else "auto", **settings)


def check(run: Trainer, model: ImageClassifier, split: str) -> None:
    """Compare what a pass logged with the metrics of all its samples at once, computed by hand."""
    logits, labels = logits_and_labels(model, run.datamodule, split)
    logged = {name: float(run.callback_metrics[f"{name}/{split}"]) for name in ("loss", "accuracy", "f1")}
    confusion = np.zeros((3, 3), dtype=int)
    for label, predicted in zip(labels.tolist(), logits.argmax(dim=1).tolist(), strict=True):
        confusion[label, predicted] += 1
    with np.errstate(invalid="ignore"):
        f1 = np.nanmean(2 * np.diag(confusion) / (confusion.sum(axis=0) + confusion.sum(axis=1)))
    expected = {"loss": float(cross_entropy(logits, labels)), "accuracy": np.trace(confusion) / len(labels), "f1": f1}
    assert logged == pytest.approx(expected, abs=1e-6)
    counted = {"val": model._val, "test": model._test}[split].confusion.clone()
    if distributed.is_initialized():
        distributed.all_reduce(counted)
    assert counted.tolist() == confusion.tolist()


def logits_and_labels(model: ImageClassifier, data: ImageDataModule, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    samples = data.samples(split)
    pixels = torch.from_numpy(samples.images.batch(samples.rows)).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        return model.network.eval()((pixels - 0.5) / 0.5), torch.from_numpy(samples.labels)


class OneMoreEachEpoch(Callback):
    """Checks what a validation logged, and gives the next one sample more, from 1 on."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.datamodule.size = 1

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        check(trainer, pl_module, "val")
        trainer.datamodule.size += 1


def _count(rank: int, number: int) -> None:
    for batch_size in BATCH_SIZES:
        model, data, collect = (
            classifier(batch_norm=batch_size > 1),
            Random(batch_size=batch_size),
            CollectPredictions(),
        )
        settings = {"max_epochs": len(SIZES), "reload_dataloaders_every_n_epochs": 1, "limit_train_batches": 1}
        on(number, callbacks=[OneMoreEachEpoch()], **settings).fit(model, datamodule=data)
        run = on(number, callbacks=[collect])
        for data.size in SIZES:
            run.test(model, datamodule=data, verbose=False)
            check(run, model, "test")
            found, samples = collect.predictions, data.samples("test")
            assert (found.names, found.labels.tolist()) == (samples.names, samples.labels.tolist())
            np.testing.assert_allclose(found.logits, logits_and_labels(model, data, "test")[0].numpy(), atol=1e-6)


@pytest.mark.parametrize("number", [2, 3])
def test_each_sample_is_counted_once_for_all_sizes_of_splits_and_batches(number: int) -> None:
    in_processes(number, _count)


def _train(rank: int, number: int, folder: Path) -> None:
    metrics = {}
    for name, callbacks, sampling in (("plain", [], "shuffled"), ("average", [RunningAverage(decay=0.8)], "balanced")):
        model = classifier()
        run = on(number, max_epochs=3, callbacks=callbacks)
        run.fit(model, datamodule=Random(batch_size=6 // number, sampling=sampling))
        metrics |= {f"{name} {metric}": float(value) for metric, value in run.callback_metrics.items()}
        # After the fit, the average.
        metrics[f"{name} weights"] = sum(float(weight.detach().abs().sum()) for weight in model.parameters())
    (folder / f"{number}-{rank}.json").write_text(json.dumps(metrics))


def test_equal_steps_give_equal_metrics_with_one_two_and_three_processes(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        in_processes(number, _train, tmp_path)
    alone, *others = [json.loads(path.read_text()) for path in sorted(tmp_path.iterdir())]
    metrics = ("loss/train", "accuracy/train", "loss/val", "accuracy/val", "f1/val", "weights")
    assert set(alone) >= {f"{name} {metric}" for name in ("plain", "average") for metric in metrics}
    assert alone["plain weights"] != alone["average weights"]
    assert len(others) == 5
    for metrics in others:
        assert metrics == pytest.approx(alone, abs=1e-6)


class Levels(ImageDataModule):
    """Twelve images of one pixel: black, gray and white, a class each."""

    def __init__(self, **options: Any) -> None:
        super().__init__(normalize="half", **options)
        self.class_names, self.in_channels, self.image_size = ["black", "gray", "white"], 1, (1, 1)

    def load(self) -> dict[str, Split]:
        labels = np.arange(12) % 3
        images = ArrayImages((labels * 127).astype(np.uint8).reshape(12, 1, 1, 1))
        return dict.fromkeys(("train", "val", "test"), Split(images, np.arange(12), labels, list(map(str, labels))))


def _normalize(rank: int, number: int, folder: Path) -> None:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(1), nn.Linear(1, 16), nn.ReLU(), nn.Linear(16, 3))
    model = ImageClassifier(network, ["black", "gray", "white"], optimizer=partial(torch.optim.Adam, lr=0.05))
    run = on(number, max_epochs=30, check_val_every_n_epoch=30)
    run.fit(model, datamodule=Levels(batch_size=4 // number, seed=1))
    (folder / f"{number}").write_text(f"{run.callback_metrics['accuracy/val']:.4f}")


def test_batch_norm_alone_differs_since_each_process_normalizes_its_own_images(tmp_path: Path) -> None:
    """The example of docs/distributed.md: of two images, one is +1 and one is -1, whatever their gray levels."""
    for number in (1, 2):
        in_processes(number, _normalize, tmp_path)
    assert [(tmp_path / name).read_text() for name in ("1", "2")] == ["1.0000", "0.6667"]
