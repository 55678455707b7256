"""The worst mistakes are those that a sort of all losses finds, with their own images and names."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader, TensorDataset

from litlens.callbacks.live import samples as module
from litlens.callbacks.live.samples import WrongSamples
from litlens.data.datasets.arrays import DigitsDataModule
from litlens.models.classifier import ImageClassifier
from litlens.models.networks.mlp import MLP


@pytest.fixture
def drawn(monkeypatch: Any) -> list[dict[str, Any]]:
    """What was drawn, one after the other."""
    calls: list[dict[str, Any]] = []
    draw = module.wrong_samples_figure

    def spy(pixels, names, labels, shares, class_names, *, title):
        calls.append({"images": pixels, "names": names, "labels": labels, "shares": shares})
        return draw(pixels, names, labels, shares, class_names, title=title)

    monkeypatch.setattr(module, "wrong_samples_figure", spy)
    return calls


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
def test_the_highest_losses_among_the_wrong_ones(tmp_path: Path, drawn: Any, own: bool) -> None:
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
    np.testing.assert_allclose(call["shares"], logits[expected].softmax(1), rtol=1e-4)
    if own:
        assert np.array_equal(call["images"], pixels[expected])
    else:  # stretched: every digit has both a 0 and a full pixel
        brightest = pixels[expected].reshape(7, -1).max(1)
        assert np.array_equal(call["images"][brightest == 255], pixels[expected][brightest == 255])


def test_without_a_mistake_nothing_is_drawn(tmp_path: Path, drawn: Any) -> None:
    images = torch.randn(6, 1, 8, 8)
    torch.manual_seed(0)
    labels = MLP(10, 1, (8, 8), widths=[]).eval()(images).argmax(1)
    validate(tmp_path, dataloaders=DataLoader(TensorDataset(images, labels), batch_size=4))
    assert drawn == []


def test_labels_in_another_order_are_said_and_not_named_wrongly(tmp_path: Path, drawn: Any, caplog: Any) -> None:
    class Shuffled(DigitsDataModule):
        def val_dataloader(self) -> Any:
            pairs = TensorDataset(torch.randn(40, 1, 8, 8), torch.arange(40) % 10)
            return DataLoader(pairs, batch_size=8)

    validate(tmp_path, datamodule=Shuffled())
    assert drawn == []
    assert "not in the data module's order" in caplog.text
