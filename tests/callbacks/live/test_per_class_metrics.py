"""The figures of each class, against scikit-learn on the same predictions."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from sklearn.metrics import precision_recall_fscore_support
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from litlens.callbacks.live import score_figures as module
from litlens.callbacks.live.score_figures import PerClassMetrics


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


def test_a_figure_of_more_classes_and_of_the_test(
    trainer: Any, small: Any, samples: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    drawn: list[tuple[str, list[int]]] = []
    draw = module.per_class_figure

    def spy(table: Any, *, title: str) -> Any:
        drawn.append((title, [row.labelled for row in table]))
        return draw(table, title=title)

    monkeypatch.setattr(module, "per_class_figure", spy)
    classifier, val = small(), samples(40, 1)
    run = trainer(PerClassMetrics(2, every_n_epochs=2), logger=TensorBoardLogger(tmp_path), max_epochs=3)
    run.fit(classifier, samples(), val)
    run.test(classifier, val, verbose=False)
    labelled = np.bincount(torch.cat([labels for _, labels in val]), minlength=3).tolist()
    titles = ["Validation, epoch 1", "Validation, epoch 2", "Test"]
    assert drawn == [(title, labelled) for title in titles]
