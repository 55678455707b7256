"""Figures of scores: learning curves, confusion matrix and metrics of each class show what the module computed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from sklearn.metrics import precision_recall_fscore_support, precision_score, recall_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from litlens.callbacks.live import score_figures as module
from litlens.callbacks.live.score_figures import (
    ConfusionMatrix,
    LearningCurves,
    PerClassMetrics,
    PrecisionRecallCurves,
)
from litlens.data.datasets.arrays import DigitsDataModule
from litlens.models.classifier import ImageClassifier
from litlens.models.networks.mlp import MLP

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*have no `val_dataloader`",
    "ignore:.*resuming from a checkpoint that",
    "ignore:The dirpath has changed",
)


NAMES = {"epoch", "loss/train", "loss/val", "accuracy/train", "accuracy/val"}


class Witness(Callback):
    """Reads the same values on its own, at the latest moment of each epoch."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def setup(self, trainer, pl_module, stage) -> None:
        original = trainer.fit_loop.on_advance_end

        def after() -> None:
            epoch = trainer.current_epoch
            original()
            logged = trainer.callback_metrics
            self.rows.append({"epoch": epoch, **{k: float(v) for k, v in logged.items() if k in NAMES}})

        trainer.fit_loop.on_advance_end = after


def test_the_history_is_what_was_logged(trainer, small, samples) -> None:
    curves, witness = LearningCurves(), Witness()
    trainer(curves, witness, max_epochs=4).fit(small(), samples(), samples(17, 1))
    assert [row["epoch"] for row in curves.history] == [0, 1, 2, 3]
    assert all(set(row) == NAMES for row in curves.history)
    assert curves.history == witness.rows
    assert curves.history[3]["loss/train"] < curves.history[0]["loss/train"]


def test_values_logged_in_the_training_step_are_found_too(trainer, small, samples) -> None:
    classifier, curves = small(), LearningCurves()
    step = classifier.training_step

    def logging_step(batch, batch_idx):
        outputs = step(batch, batch_idx)
        classifier.log("loss/train", outputs["loss"], on_step=False, on_epoch=True, batch_size=10)
        return outputs

    classifier.training_step = logging_step
    classifier.on_train_epoch_end = lambda: None
    witness = Witness()
    trainer(curves, witness, max_epochs=2).fit(classifier, samples(), samples(17, 1))
    assert curves.history == witness.rows
    assert set(curves.history[0]) == NAMES - {"accuracy/train"}


def test_without_validation_there_are_rows_all_the_same(trainer, small, samples) -> None:
    curves = LearningCurves()
    trainer(curves, max_epochs=2).fit(small(), samples())
    assert [set(row) for row in curves.history] == [{"epoch", "loss/train", "accuracy/train"}] * 2


@pytest.mark.parametrize("moment", ["validation", "epoch end", "mid-epoch"])
def test_a_resumed_run_has_the_history_of_one_in_one_go(trainer, tmp_path, moment) -> None:
    settings = {
        "validation": {"save_on_train_epoch_end": False},
        "epoch end": {"save_on_train_epoch_end": True},
        "mid-epoch": {"every_n_train_steps": 3},
    }[moment]

    def run(folder: str, start: Path | None = None) -> list[dict[str, float]]:
        curves = LearningCurves()
        saver = ModelCheckpoint(dirpath=tmp_path / folder, filename="{step}", save_top_k=-1, **settings)
        torch.manual_seed(0)
        network = MLP(num_classes=10, in_channels=1, image_size=(8, 8), widths=[16])
        classifier = ImageClassifier(network, [str(digit) for digit in range(10)])
        trainer(curves, saver, max_epochs=3, enable_checkpointing=True).fit(
            classifier, DigitsDataModule(batch_size=256), ckpt_path=start, weights_only=True
        )
        return curves.history

    whole = run("whole")
    checkpoints = sorted((tmp_path / "whole").glob("*.ckpt"), key=lambda path: int(path.stem.split("=")[1]))
    assert [row["epoch"] for row in whole] == [0, 1, 2]
    assert all(set(row) == NAMES for row in whole)
    for checkpoint in checkpoints[:-1]:
        assert run("resumed", checkpoint) == whole


def test_testing_the_best_checkpoint_keeps_the_complete_history(trainer, small, samples, tmp_path) -> None:
    curves, saver = LearningCurves(), ModelCheckpoint(dirpath=tmp_path, monitor="loss/val", mode="max")
    run = trainer(curves, saver, max_epochs=3, enable_checkpointing=True)
    run.fit(small(), samples(), samples(17, 1))
    assert "epoch=0" in saver.best_model_path
    run.test(small(), samples(17, 1), ckpt_path="best", weights_only=True, verbose=False)
    assert [row["epoch"] for row in curves.history] == [0, 1, 2]
    alone = LearningCurves()
    trainer(alone, ModelCheckpoint(dirpath=tmp_path, monitor="loss/val", mode="max"), enable_checkpointing=True).test(
        small(), samples(17, 1), ckpt_path=saver.best_model_path, weights_only=True, verbose=False
    )
    assert [row["epoch"] for row in alone.history] == [0]


@pytest.mark.parametrize(
    ("every", "epochs", "expected"),
    [
        pytest.param(2, 5, [2, 4, 5], id="every second"),
        pytest.param(None, 4, [1, 2, 3, 4], id="by default each of a short run"),
        pytest.param(None, 21, [3, 6, 9, 12, 15, 18, 21], id="and at most ten of a long one"),
    ],
)
def test_drawn_every_n_epochs_and_at_the_end(
    trainer, small, samples, tmp_path, monkeypatch, every, epochs, expected
) -> None:
    drawn = []
    draw = module.learning_curves_figure
    monkeypatch.setattr(module, "learning_curves_figure", lambda history: drawn.append(len(history)) or draw(history))
    run = trainer(LearningCurves(every), logger=TensorBoardLogger(tmp_path), max_epochs=epochs)
    run.fit(small(), samples(), samples(17, 1))
    assert drawn == expected


def test_the_sanity_check_and_a_test_leave_no_row(trainer, small, samples) -> None:
    curves = LearningCurves()
    run = trainer(curves, max_epochs=1, num_sanity_val_steps=2)
    run.fit(small(), samples(), samples(17, 1))
    run.validate(small(), samples(17, 1), verbose=False)
    run.test(small(), samples(17, 1), verbose=False)
    assert [row["epoch"] for row in curves.history] == [0]


def test_a_second_fit_starts_its_own_history(trainer, small, samples) -> None:
    curves, alone = LearningCurves(), LearningCurves()
    trainer(curves, max_epochs=5).fit(small(), samples(), samples(17, 1))
    trainer(curves, max_epochs=3).fit(small(), samples(30, 4), samples(17, 5))
    trainer(alone, max_epochs=3).fit(small(), samples(30, 4), samples(17, 5))
    assert curves.history == alone.history


def test_a_fit_that_continues_in_the_same_trainer_continues_its_history(trainer, small, samples) -> None:
    curves, classifier = LearningCurves(), small()
    run = trainer(curves, max_epochs=2)
    run.fit(classifier, samples(), samples(17, 1))
    run.fit_loop.max_epochs = 4
    run.fit(classifier, samples(), samples(17, 1))
    assert [row["epoch"] for row in curves.history] == [0, 1, 2, 3]


def counted(classifier, loader) -> list[list[int]]:
    counts = np.zeros((3, 3), dtype=int)
    for images, labels in loader:
        for label, predicted in zip(labels, classifier.layer(images).argmax(dim=1), strict=True):
            counts[label, predicted] += 1
    return counts.tolist()


def images(folder: str) -> dict[str, list[int]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(folder, size_guidance={"images": 0})
    events.Reload()
    return {tag: [event.step for event in events.Images(tag)] for tag in events.Tags()["images"]}


def test_every_epoch_and_the_test_are_shown_with_their_counts(trainer, small, samples, spy, tmp_path) -> None:
    drawn = spy(module, "confusion_matrix_figure")
    logger = TensorBoardLogger(tmp_path)
    classifier, val, test = small(), samples(17, 1), samples(23, 2)
    run = trainer(ConfusionMatrix(), logger=logger, max_epochs=3)
    run.fit(classifier, samples(), val)
    assert [call["title"] for call in drawn] == [f"Validation, epoch {epoch}" for epoch in range(3)]
    assert drawn[-1]["counts"].tolist() == counted(classifier, val)
    run.test(classifier, test, verbose=False)
    assert drawn[-1]["title"] == "Test"
    assert drawn[-1]["counts"].tolist() == counted(classifier, test)
    assert images(logger.log_dir) == {"confusion_matrix/val": [3, 6, 9], "confusion_matrix/test": [9]}


def test_the_tab_of_precision_and_recall(trainer: Any, small: Any, samples: Any, tmp_path: Path) -> None:
    logger, classifier, val = TensorBoardLogger(tmp_path), small(), samples(40, 1)
    trainer(PrecisionRecallCurves(), logger=logger).validate(classifier, val, verbose=False)
    logits, labels = (torch.cat(parts) for parts in zip(*((classifier.layer(x), y) for x, y in val), strict=True))
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    (event,) = events.Tensors("pr_curve/val/b")
    *_, precision, recall = make_ndarray(event.tensor_proto)  # at 127 thresholds from 0 to 1
    predicted = logits.softmax(1)[:, 1] >= 63 / 126
    assert precision[63] == pytest.approx(precision_score(labels == 1, predicted, zero_division=0.0))
    assert recall[63] == pytest.approx(recall_score(labels == 1, predicted))


def test_curves_of_few_classes(trainer: Any, small: Any, samples: Any, tmp_path: Path) -> None:
    logger, classifier, val = TensorBoardLogger(tmp_path), small(), samples(40, 1)
    trainer(PerClassMetrics(), logger=logger, max_epochs=2).fit(classifier, samples(), val)
    pairs = [(labels, classifier.layer(images).argmax(1)) for images, labels in val]
    labels, predicted = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    expected = precision_recall_fscore_support(labels, predicted, zero_division=0.0)
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    for kind, values in zip(("precision", "recall", "f1"), expected[:3], strict=True):
        for name, value in zip("abc", values, strict=True):
            logged = events.Scalars(f"{kind}/val/{name}")
            assert [event.step for event in logged] == [3, 6]
            assert logged[-1].value == pytest.approx(value, abs=1e-6)


def test_a_figure_of_more_classes_and_of_the_test(trainer, small, samples, spy, tmp_path) -> None:
    drawn, classifier, val = spy(module, "per_class_figure"), small(), samples(40, 1)
    run = trainer(PerClassMetrics(2, every_n_epochs=2), logger=TensorBoardLogger(tmp_path), max_epochs=3)
    run.fit(classifier, samples(), val)
    run.test(classifier, val, verbose=False)
    labeled = np.bincount(torch.cat([labels for _, labels in val]), minlength=3).tolist()
    assert [call["title"] for call in drawn] == ["Validation, epoch 1", "Validation, epoch 2", "Test"]
    assert all([row.labeled for row in call["table"]] == labeled for call in drawn)
