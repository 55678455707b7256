"""Class weights, given or balanced: losses by hand, checkpoints, averages."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from small_classifier import NAMES, Data, small, trainer
from torch import nn

from litlens.callbacks.running_average import RunningAverage
from litlens.errors import UserError
from litlens.models.classifier import ImageClassifier
from litlens.models.losses import given_weights
from litlens.models.networks.scratch import LeNet5


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_weighted_training_losses_are_means_over_all_samples(data: Data, loss: str) -> None:
    classifier = small(
        loss=loss, class_weights=[0.2, 1.0, 3.0], optimizer=lambda params: torch.optim.SGD(params, lr=0.0)
    )
    run = trainer()
    run.fit(classifier, data)
    with torch.no_grad():
        logits = classifier(data.images)
    weights = torch.tensor([0.2, 1.0, 3.0])
    if loss == "cross_entropy":
        expected = nn.functional.cross_entropy(logits, data.labels, weight=weights)
    else:
        per_sample = (logits.softmax(1) - nn.functional.one_hot(data.labels, 3)).square().mean(1)
        expected = (per_sample * weights[data.labels]).sum() / weights[data.labels].sum()
    assert run.callback_metrics["loss/train"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_weights_by_class_name_and_the_nearest_name_of_a_wrong_one() -> None:
    assert small(class_weights={"c": 3, "a": 0.2})._class_weights.tolist() == pytest.approx([0.2, 1.0, 3.0])
    network = LeNet5(num_classes=2, image_size=(12, 12))
    with pytest.raises(UserError, match=r"^model.class_weights: there is no class 'Dogs'; did you mean 'dog'\?$"):
        ImageClassifier(network, ["cat", "dog"], class_weights={"cat": 2.0, "Dogs": 1.0})


@pytest.mark.parametrize("settings", [{"label_smoothing": 0.1}, {"class_weights": [0.2, 1.0, 3.0]}])
def test_validation_and_test_losses_have_neither_label_smoothing_nor_class_weights(
    data: Data, settings: dict[str, Any]
) -> None:
    classifier, run = small(**settings), trainer()
    run.fit(classifier, data)
    (logged,) = run.validate(classifier, data, verbose=False)
    (tested,) = run.test(classifier, data, verbose=False)
    with torch.no_grad():
        logits = classifier(data.images)
    expected = nn.functional.cross_entropy(logits, data.labels).item()
    assert logged["loss/val"] == pytest.approx(expected, rel=1e-5)
    assert tested["loss/test"] == pytest.approx(expected, rel=1e-5)


def test_balanced_weights_come_from_the_training_split_and_go_into_the_checkpoint(data: Data, tmp_path: Path) -> None:
    classifier = small(class_weights="balanced")
    run = trainer()
    run.fit(classifier, data)
    counts = torch.bincount(data.labels)
    torch.testing.assert_close(classifier._class_weights, 23 / (3 * counts))
    run.save_checkpoint(tmp_path / "x.ckpt")
    (expected,) = trainer().test(classifier, data, verbose=False)
    fresh = small(class_weights="balanced")
    (found,) = trainer().test(fresh, data, ckpt_path=str(tmp_path / "x.ckpt"), verbose=False)
    assert found == expected
    torch.testing.assert_close(fresh._class_weights, 23 / (3 * counts))

    loader = data.train_dataloader()
    with pytest.raises(UserError, match="give a list"):
        trainer().fit(small(class_weights="balanced"), loader, loader)


def test_balanced_weights_are_the_same_under_a_running_average_and_after_a_resume(data: Data, tmp_path: Path) -> None:
    expected = 23 / (3 * torch.bincount(data.labels))

    def fit(epochs: int, ckpt_path: Path | None = None) -> None:
        network = LeNet5(num_classes=3, image_size=(12, 12), batch_norm=True)
        classifier = ImageClassifier(network, NAMES, class_weights="balanced")
        callbacks = [RunningAverage(decay=0.5), ModelCheckpoint(tmp_path, filename="x")]
        run = trainer(max_epochs=epochs, callbacks=callbacks, enable_checkpointing=True)
        run.fit(classifier, data, ckpt_path=ckpt_path, weights_only=True if ckpt_path else None)
        torch.testing.assert_close(classifier._class_weights, expected)
        # After the fit the classifier is the average, which was validated last.
        with torch.no_grad():
            logits = classifier.eval()(data.images)
        loss = nn.functional.cross_entropy(logits, data.labels)
        assert run.callback_metrics["loss/val"].item() == pytest.approx(loss.item(), rel=1e-5)

    fit(1)
    fit(2, tmp_path / "x.ckpt")


def test_deepcopy_copies_weights_and_settings() -> None:
    classifier = small(class_weights=[1.0, 2.0, 3.0])
    twin = copy.deepcopy(classifier)
    assert twin.state_dict().keys() == classifier.state_dict().keys()
    assert torch.equal(twin._class_weights, torch.tensor([1.0, 2.0, 3.0]))


def test_weights_by_a_name_that_yaml_reads_as_a_number() -> None:
    given: dict[str, float] = {7: 2.0}  # type: ignore[dict-item]
    assert given_weights(given, ["6", "7"]).tolist() == [1.0, 2.0]  # type: ignore[union-attr]
    with pytest.raises(UserError, match="there is no class '8'"):
        given_weights({8: 2.0}, ["6", "7"])  # type: ignore[dict-item]


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_that_is_not_positive_is_refused(weight: float) -> None:
    with pytest.raises(UserError, match="for class b: give numbers above 0"):
        given_weights([1, weight], ["a", "b"])
