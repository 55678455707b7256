"""Which samples are shown, when, with which weights; and the worst mistakes, against a sort of all losses."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from litlens.callbacks.live import samples as module
from litlens.callbacks.live.samples import PredictionGrid, WrongSamples, pixels_of, samples_of
from litlens.data.datasets.arrays import DigitsDataModule
from litlens.models.classifier import ImageClassifier
from litlens.models.networks.mlp import MLP


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


def test_the_same_samples_spread_over_the_split_every_time(tmp_path: Path, spy: Any) -> None:
    drawn = spy(module, "prediction_grid_figure")
    classifier, data = fit(tmp_path, [PredictionGrid(samples=5)], max_epochs=3)
    last = len(data.samples("val")) - 1
    places = [int(last * share) for share in (0, 0.25, 0.5, 0.75, 1)]
    assert [call["title"] for call in drawn] == [f"Validation, epoch {epoch}" for epoch in range(3)]
    for call in drawn:
        assert np.array_equal(call["images"], [data.image("val", place) for place in places])
        assert call["labels"].tolist() == [int(data.samples("val").labels[place]) for place in places]
    with torch.no_grad():
        logits = classifier.eval()(data.preprocessing.normalize(drawn[-1]["images"]))
    np.testing.assert_allclose(drawn[-1]["probabilities"], logits.softmax(1).numpy(), rtol=1e-5)


class OtherWeights(Callback):
    """Validates with weights of zero, as a running average validates with others than training's."""

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._kept = {name: value.clone() for name, value in pl_module.state_dict().items()}
        for weight in pl_module.network.parameters():
            torch.nn.init.zeros_(weight)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        pl_module.load_state_dict(self._kept)


@pytest.mark.parametrize("first", [True, False])
def test_the_weights_that_are_validated_in_any_order_of_callbacks(tmp_path: Path, spy: Any, first: bool) -> None:
    drawn = spy(module, "prediction_grid_figure")
    callbacks = [OtherWeights(), PredictionGrid()] if first else [PredictionGrid(), OtherWeights()]
    fit(tmp_path, callbacks, max_epochs=1, num_sanity_val_steps=0)
    np.testing.assert_allclose(drawn[0]["probabilities"], 0.1)


def test_samples_of_a_plain_batch() -> None:
    images, labels = torch.randn(5, 2, 4, 6), torch.arange(5)
    samples = samples_of([images, labels], 3)
    assert samples is not None
    assert torch.equal(samples.images, images[:3])
    assert samples.pixels.shape == (3, 4, 6, 1)
    assert samples.labels.tolist() == [0, 1, 2]
    assert samples.names == ["val/00000", "val/00001", "val/00002"]


@pytest.mark.parametrize("batch", [torch.zeros(3), [torch.zeros(3, 4), torch.zeros(3)], {"images": 1}, [1, 2], None])
def test_other_batches_have_no_samples(batch: object) -> None:
    assert samples_of(batch, 3) is None


def test_an_unknown_normalization_is_stretched_to_the_range_of_each() -> None:
    images: Tensor = torch.tensor([[[[-1.0, 0.0, 3.0]]], [[[5.0, 5.0, 5.0]]]])
    assert pixels_of(images)[..., 0].tolist() == [[[0, 64, 255]], [[0, 0, 0]]]


def validate(folder: Path, **data: Any) -> ImageClassifier:
    torch.manual_seed(0)
    classifier = ImageClassifier(MLP(10, 1, (8, 8), widths=[]), [str(digit) for digit in range(10)])
    trainer = Trainer(
        accelerator="cpu",
        logger=TensorBoardLogger(folder),
        callbacks=[WrongSamples(samples=7)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.validate(classifier, verbose=False, **data)
    return classifier.eval()


@pytest.mark.parametrize("own", [True, False])
def test_the_highest_losses_among_the_wrong_ones(tmp_path: Path, spy: Any, own: bool) -> None:
    drawn = spy(module, "wrong_samples_figure")
    data = DigitsDataModule(batch_size=50)
    data.setup()
    split = data.samples("val")
    pixels = np.stack([data.image("val", index) for index in range(len(split))])
    images, labels = data.preprocessing.normalize(pixels), torch.as_tensor(split.labels)
    loader = DataLoader(TensorDataset(images, labels), batch_size=50)
    given = {"datamodule": data} if own else {"dataloaders": loader}
    classifier = validate(tmp_path, **given)
    with torch.no_grad():
        logits = classifier(images).double()
    losses = -logits.log_softmax(1)[torch.arange(len(labels)), labels]
    wrong = [index for index in losses.argsort(descending=True).tolist() if logits[index].argmax() != labels[index]]
    expected = wrong[:7]
    (call,) = drawn
    assert call["labels"].tolist() == labels[expected].tolist()
    assert call["names"] == [split.names[index] if own else f"val/{index:05d}" for index in expected]
    np.testing.assert_allclose(call["probabilities"], logits[expected].softmax(1), rtol=1e-4)
    if own:
        assert np.array_equal(call["images"], pixels[expected])
    else:  # stretched: every digit has both a 0 and a full pixel
        brightest = pixels[expected].reshape(7, -1).max(1)
        assert np.array_equal(call["images"][brightest == 255], pixels[expected][brightest == 255])


def test_without_a_mistake_nothing_is_drawn(tmp_path: Path, spy: Any) -> None:
    drawn = spy(module, "wrong_samples_figure")
    images = torch.randn(6, 1, 8, 8)
    torch.manual_seed(0)
    labels = MLP(10, 1, (8, 8), widths=[]).eval()(images).argmax(1)
    validate(tmp_path, dataloaders=DataLoader(TensorDataset(images, labels), batch_size=4))
    assert drawn == []


def test_labels_in_another_order_are_reported_and_not_drawn(tmp_path: Path, spy: Any, caplog: Any) -> None:
    drawn = spy(module, "wrong_samples_figure")

    class Shuffled(DigitsDataModule):
        def val_dataloader(self) -> Any:
            pairs = TensorDataset(torch.randn(40, 1, 8, 8), torch.arange(40) % 10)
            return DataLoader(pairs, batch_size=8)

    validate(tmp_path, datamodule=Shuffled())
    assert drawn == []
    assert "not in the data module's order" in caplog.text
