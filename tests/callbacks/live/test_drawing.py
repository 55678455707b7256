"""Figures go to all loggers that show images, from rank zero, and are drawn once."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from litlens.callbacks.live.drawing import should_draw, show_figure, show_histogram, show_scalars, shows_images
from litlens.evaluation.figures import learning_curves_figure
from litlens.evaluation.style import pixels


class Wall(WandbLogger):
    """Stands in for W&B, which would start a process: keeps what it is given."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, tuple[int, ...], int]] = []

    def log_image(self, key, images, step=None, **kwargs) -> None:
        self.shown.append((key, images[0].shape, step))


def stage(*loggers, rank: int = 0):
    """What the functions see of a trainer."""
    return SimpleNamespace(loggers=list(loggers), is_global_zero=rank == 0, global_step=7)


def images(board: TensorBoardLogger, tag: str):
    """What the event file has under a tag."""
    board.experiment.flush()
    return EventAccumulator(board.log_dir).Reload().Images(tag)


@pytest.fixture
def draw():
    """A drawing function that counts its calls."""

    def function():
        function.calls += 1
        return learning_curves_figure([])

    function.calls = 0
    return function


def test_both_get_the_same_image_drawn_once(tmp_path, draw) -> None:
    board, wall = TensorBoardLogger(tmp_path), Wall()
    show_figure(stage(board, CSVLogger(tmp_path), wall), "learning_curves", draw)
    assert draw.calls == 1
    (shown,) = images(board, "learning_curves")
    assert (shown.height, shown.width, shown.step) == (960, 704, 7)
    assert wall.shown == [("learning_curves", (960, 704, 3), 7)]


def test_no_other_rank_and_no_other_logger_draws(tmp_path, draw) -> None:
    wall = Wall()
    show_figure(stage(wall, rank=1), "x", draw)
    show_figure(stage(CSVLogger(tmp_path)), "x", draw)
    show_figure(stage(), "x", draw)
    assert draw.calls == 0
    assert wall.shown == []


def test_loggers_that_show_images(tmp_path) -> None:
    assert shows_images(stage(CSVLogger(tmp_path), Wall(), rank=3))
    assert shows_images(stage(TensorBoardLogger(tmp_path)))
    assert not shows_images(stage(CSVLogger(tmp_path)))
    assert not shows_images(stage())


def test_an_image_is_read_back_from_the_event_file(tmp_path) -> None:
    logger = TensorBoardLogger(tmp_path)
    show_figure(stage(logger), "learning_curves", lambda: learning_curves_figure([]))
    stored = Image.open(io.BytesIO(images(logger, "learning_curves")[0].encoded_image_string))
    assert np.array_equal(np.asarray(stored), pixels(learning_curves_figure([])))


def test_scalars_and_histograms_go_to_the_loggers_of_images(tmp_path) -> None:
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


class Turns(Callback):
    """Notes the epochs, counted from 1, whose validation is drawn."""

    def __init__(self, every: int | None) -> None:
        self.every, self.drawn = every, []

    def on_validation_epoch_end(self, trainer, pl_module) -> None:
        if should_draw(trainer, self.every):
            self.drawn.append(trainer.current_epoch + 1)


@pytest.mark.parametrize(
    ("epochs", "apart", "every", "drawn"),
    [
        pytest.param(10, 1, None, [*range(1, 11)], id="each of a short run"),
        pytest.param(25, 1, None, [3, 6, 9, 12, 15, 18, 21, 24, 25], id="at most ten of a long one"),
        # Every eighth epoch is due; 8 falls to 10, 16 to 20, 24 to 25 and so on.
        pytest.param(80, 5, None, [10, 20, 25, 35, 40, 50, 60, 65, 75, 80], id="the next that is validated"),
        pytest.param(7, 3, None, [3, 6], id="epoch 7 is not validated"),
        pytest.param(9, 2, 5, [6, 8], id="8 is the last validation"),
        pytest.param(-1, 1, 4, [4, 8, 10], id="ten epochs by max_steps"),
        pytest.param(-1, 1, None, [3, 6, 9, 12, 15, 18, 21, 24, 25], id="25 epochs by max_steps"),
        pytest.param(1000, 1, None, [3, 6, 9, 12, 15, 18, 21, 24, 25], id="max_steps ends before max_epochs"),
        pytest.param(5, None, 2, [2, 4, 5], id="validated by steps"),
    ],
)
def test_the_epochs_drawn(trainer, small, samples, tmp_path, epochs, apart, every, drawn) -> None:
    turns, steps = Turns(every), {"max_steps": max(10, drawn[-1])} if epochs in (-1, 1000) else {}
    run = trainer(
        turns,
        logger=TensorBoardLogger(tmp_path),
        max_epochs=epochs,
        check_val_every_n_epoch=apart,
        val_check_interval=1,
        num_sanity_val_steps=1,
        **steps,
    )
    run.fit(small(), samples(10), samples(10, 1))
    assert turns.drawn == drawn
    run.validate(small(), samples(10, 1), verbose=False)
    assert len(turns.drawn) == len(drawn) + 1
