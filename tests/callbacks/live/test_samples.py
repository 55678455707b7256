"""Which samples are shown, when, and with which weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from litlens.callbacks.live import samples as module
from litlens.callbacks.live.samples import PredictionGrid, pixels_of, samples_of
from litlens.data.datasets.arrays import DigitsDataModule
from litlens.models.classifier import ImageClassifier
from litlens.models.networks.mlp import MLP


@pytest.fixture
def drawn(monkeypatch: Any) -> list[dict[str, Any]]:
    """What was drawn, one after the other."""
    calls: list[dict[str, Any]] = []
    draw = module.prediction_grid_figure

    def spy(pixels, labels, shares, names, *, title):
        calls.append({"images": pixels, "labels": labels, "shares": shares, "title": title})
        return draw(pixels, labels, shares, names, title=title)

    monkeypatch.setattr(module, "prediction_grid_figure", spy)
    return calls


def fit(folder: Path, callbacks: list[Callback], **settings: Any) -> tuple[ImageClassifier, DigitsDataModule]:
    torch.manual_seed(0)
    classifier = ImageClassifier(MLP(10, 1, (8, 8), widths=[16]), [str(digit) for digit in range(10)])
    data = DigitsDataModule(batch_size=128)
    trainer = Trainer(
        accelerator="cpu",
        logger=TensorBoardLogger(folder),
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_train_batches=1,
        **settings,
    )
    trainer.fit(classifier, datamodule=data)
    return classifier, data


def test_the_same_samples_spread_over_the_split_every_time(tmp_path: Path, drawn: Any) -> None:
    classifier, data = fit(tmp_path, [PredictionGrid(samples=5)], max_epochs=3)
    last = len(data.samples("val")) - 1
    places = [int(last * share) for share in (0, 0.25, 0.5, 0.75, 1)]
    assert [call["title"] for call in drawn] == [f"Validation, epoch {epoch}" for epoch in range(3)]
    for call in drawn:
        assert np.array_equal(call["images"], [data.image("val", place) for place in places])
        assert call["labels"].tolist() == [int(data.samples("val").labels[place]) for place in places]
    with torch.no_grad():
        logits = classifier.eval()(data.preprocessing.normalize(drawn[-1]["images"]))
    np.testing.assert_allclose(drawn[-1]["shares"], logits.softmax(1).numpy(), rtol=1e-5)


@pytest.mark.parametrize(
    ("every", "epochs", "shown"),
    [(None, 3, [0, 1, 2]), (None, 25, [2, 5, 8, 11, 14, 17, 20, 23, 24]), (2, 5, [1, 3, 4]), (7, 3, [2])],
)
def test_about_ten_times_in_a_run_and_after_the_last_epoch(
    tmp_path: Path, drawn: Any, every: int | None, epochs: int, shown: list[int]
) -> None:
    fit(tmp_path, [PredictionGrid(1, every)], max_epochs=epochs, limit_val_batches=1)
    assert [int(call["title"].split()[-1]) for call in drawn] == shown


class OtherWeights(Callback):
    """Validates with weights of zero, as a running average validates with others than training's."""

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._kept = {name: value.clone() for name, value in pl_module.state_dict().items()}
        for weight in pl_module.network.parameters():
            torch.nn.init.zeros_(weight)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        pl_module.load_state_dict(self._kept)


@pytest.mark.parametrize("first", [True, False])
def test_the_weights_that_are_validated_whatever_the_order(tmp_path: Path, drawn: Any, first: bool) -> None:
    callbacks = [OtherWeights(), PredictionGrid()] if first else [PredictionGrid(), OtherWeights()]
    fit(tmp_path, callbacks, max_epochs=1, num_sanity_val_steps=0)
    np.testing.assert_allclose(drawn[0]["shares"], 0.1)


def test_somebody_elses_batch_is_taken_as_it_is() -> None:
    images, labels = torch.randn(5, 2, 4, 6), torch.arange(5)
    samples = samples_of([images, labels], 3)
    assert samples is not None
    assert torch.equal(samples.images, images[:3])
    assert samples.pixels.shape == (3, 4, 6, 1)
    assert samples.labels.tolist() == [0, 1, 2]
    assert samples.names == ["val/00000", "val/00001", "val/00002"]


@pytest.mark.parametrize("batch", [torch.zeros(3), [torch.zeros(3, 4), torch.zeros(3)], {"images": 1}, [1, 2], None])
def test_what_is_no_batch_of_images_is_left_alone(batch: object) -> None:
    assert samples_of(batch, 3) is None


def test_an_unknown_normalization_is_stretched_to_the_range_of_each() -> None:
    images: Tensor = torch.tensor([[[[-1.0, 0.0, 3.0]]], [[[5.0, 5.0, 5.0]]]])
    assert pixels_of(images)[..., 0].tolist() == [[[0, 64, 255]], [[0, 0, 0]]]
