"""Figures go to the loggers that show pictures, from rank zero, drawn once however many there are."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger

from litlens.callbacks.live.drawing import show_figure, show_histogram, show_scalars, shows_pictures
from litlens.evaluation.figures import learning_curves_figure


class Wall(WandbLogger):
    """Stands in for W&B, which would start a process: keeps what it is given."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, tuple[int, ...], int]] = []

    def log_image(self, key, images, step=None, **kwargs) -> None:
        self.shown.append((key, images[0].shape, step))


def stage(*loggers, rank: int = 0):
    """What the functions see of a trainer."""
    return SimpleNamespace(loggers=list(loggers), is_global_zero=rank == 0, global_step=7)


@pytest.fixture
def draw():
    """A drawing function that counts its calls."""

    def function():
        function.calls += 1
        return learning_curves_figure([])

    function.calls = 0
    return function


def test_both_get_the_same_picture_drawn_once(tmp_path, draw, monkeypatch) -> None:
    board, wall, seen = TensorBoardLogger(tmp_path), Wall(), []
    monkeypatch.setattr(
        board.experiment,
        "add_image",
        lambda tag, picture, step, dataformats: seen.append((tag, picture.shape, step, dataformats)),
    )
    show_figure(stage(board, CSVLogger(tmp_path), wall), "learning_curves", draw)
    assert draw.calls == 1
    assert seen == [("learning_curves", (374, 924, 3), 7, "HWC")]
    assert wall.shown == [("learning_curves", (374, 924, 3), 7)]


def test_no_other_rank_and_no_other_logger_draws(tmp_path, draw) -> None:
    wall = Wall()
    show_figure(stage(wall, rank=1), "x", draw)
    show_figure(stage(CSVLogger(tmp_path)), "x", draw)
    show_figure(stage(), "x", draw)
    assert draw.calls == 0
    assert wall.shown == []


def test_who_shows_pictures(tmp_path) -> None:
    assert shows_pictures(stage(CSVLogger(tmp_path), Wall(), rank=3))
    assert shows_pictures(stage(TensorBoardLogger(tmp_path)))
    assert not shows_pictures(stage(CSVLogger(tmp_path)))
    assert not shows_pictures(stage())


def test_a_picture_reads_back_from_the_event_file(tmp_path) -> None:
    import io

    from PIL import Image
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from litlens.evaluation.style import pixels

    logger = TensorBoardLogger(tmp_path)
    show_figure(stage(logger), "learning_curves", lambda: learning_curves_figure([]))
    logger.experiment.flush()
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    stored = Image.open(io.BytesIO(events.Images("learning_curves")[0].encoded_image_string))
    assert np.array_equal(np.asarray(stored), pixels(learning_curves_figure([])))


def test_scalars_and_histograms_go_to_the_same_walls(tmp_path) -> None:
    wandb = pytest.importorskip("wandb")
    logged: list[dict[str, object]] = []
    wall = Wall()
    wall._experiment = SimpleNamespace(log=logged.append)
    wall._wandb_init, wall._prefix = {}, ""
    board = TensorBoardLogger(tmp_path)
    show_scalars(stage(board, CSVLogger(tmp_path), wall), {"f1/val/cat": 0.5})
    show_histogram(stage(board, wall), "weights/x", torch.tensor([1.0, float("nan"), 3.0]))
    show_histogram(stage(board, wall), "weights/none", torch.tensor([float("inf")]))
    show_histogram(stage(wall, rank=1), "weights/other", torch.ones(2))
    assert logged[0] == {"f1/val/cat": 0.5, "trainer/global_step": 7}
    assert [set(entry) for entry in logged[1:]] == [{"weights/x", "trainer/global_step"}]
    histogram = logged[1]["weights/x"]
    assert isinstance(histogram, wandb.Histogram)
    assert sum(histogram.histogram) == 2
