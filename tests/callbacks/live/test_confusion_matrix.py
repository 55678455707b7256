"""The confusion matrix reaches TensorBoard with the module's counts, and is not drawn for anything else."""

from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from litlens.callbacks.live import score_figures as module
from litlens.callbacks.live.score_figures import ConfusionMatrix

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*have no `val_dataloader`")


@pytest.fixture
def drawn(monkeypatch):
    """What was drawn: (title, counts) one after the other."""
    calls: list[tuple[str, list[list[int]]]] = []
    draw = module.confusion_matrix_figure

    def spy(counts, class_names, *, title):
        calls.append((title, np.asarray(counts).tolist()))
        return draw(counts, class_names, title=title)

    monkeypatch.setattr(module, "confusion_matrix_figure", spy)
    return calls


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


def test_every_epoch_and_the_test_are_shown_with_their_counts(trainer, small, samples, drawn, tmp_path) -> None:
    logger = TensorBoardLogger(tmp_path)
    classifier, val, test = small(), samples(17, 1), samples(23, 2)
    run = trainer(ConfusionMatrix(), logger=logger, max_epochs=3)
    run.fit(classifier, samples(), val)
    assert [title for title, _ in drawn] == [f"Validation, epoch {epoch}" for epoch in range(3)]
    assert drawn[-1][1] == counted(classifier, val)
    run.test(classifier, test, verbose=False)
    assert drawn[-1] == ("Test", counted(classifier, test))
    assert images(logger.log_dir) == {"confusion_matrix/val": [3, 6, 9], "confusion_matrix/test": [9]}


def test_every_second_epoch_and_the_last(trainer, small, samples, drawn, tmp_path) -> None:
    run = trainer(ConfusionMatrix(every_n_epochs=2), logger=TensorBoardLogger(tmp_path), max_epochs=5)
    run.fit(small(), samples(), samples(17, 1))
    assert [title[-1] for title, _ in drawn] == ["1", "3", "4"]


@pytest.mark.parametrize("kind", ["none", "csv"])
def test_nothing_is_drawn_where_nobody_can_look(trainer, small, samples, drawn, tmp_path: Path, kind) -> None:
    logger = CSVLogger(tmp_path) if kind == "csv" else False
    run = trainer(ConfusionMatrix(), logger=logger, max_epochs=1)
    run.fit(small(), samples(), samples(17, 1))
    run.test(small(), samples(17, 1), verbose=False)
    assert drawn == []


def test_the_sanity_check_is_not_shown(trainer, small, samples, drawn, tmp_path) -> None:
    run = trainer(ConfusionMatrix(), logger=TensorBoardLogger(tmp_path), max_epochs=0, num_sanity_val_steps=2)
    run.fit(small(), samples(), samples(17, 1))
    assert drawn == []


def test_a_module_without_a_matrix_is_left_alone(trainer, drawn, tmp_path) -> None:
    run = trainer(ConfusionMatrix(), logger=TensorBoardLogger(tmp_path), max_epochs=1)
    run.fit(BoringModel())
    assert drawn == []
