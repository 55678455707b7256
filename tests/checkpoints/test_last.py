"""When a run's newest state is written, and that a run resumed from it is the same to the bit."""

from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from small_classifier import trainer

from litlens.callbacks.random_state import RandomState
from litlens.checkpoints.durable import write_durably
from litlens.checkpoints.last import LastCheckpoint
from litlens.checkpoints.reading import LAST, read_checkpoint
from litlens.data.datasets.arrays import DigitsDataModule
from litlens.models.classifier import ImageClassifier
from litlens.models.networks.mlp import MLP

BATCHES, EPOCHS = 7, 2


class Stop(Callback):
    """Ends a run before step `at` or in a validation after it, and keeps the loss of every validation by its step."""

    def __init__(self, at: int | None = None, *, in_validation: bool = False) -> None:
        self.at, self.in_validation, self.validated = at, in_validation, {}

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx == self.at and not self.in_validation:
            raise InterruptedError

    def on_validation_batch_end(self, trainer: Any, *_: Any) -> None:
        torch.rand(1)  # as a stranger's validation may
        if trainer.global_step == self.at and self.in_validation and not trainer.sanity_checking:
            raise InterruptedError

    def on_validation_end(self, trainer: Any, *_: Any) -> None:
        if not trainer.sanity_checking:
            self.validated[trainer.global_step] = float(trainer.callback_metrics["loss/val"])


def fit(folder: Path, *, seconds: float = 0, resume: bool = False, stop: Stop | None = None, **settings: Any) -> Any:
    """The weights, the optimizer's state and the schedule's at the end, and the losses of validation so far."""
    seed_everything(1)
    stop, last = stop or Stop(), LastCheckpoint(folder, every=timedelta(seconds=seconds))
    classifier = ImageClassifier(
        MLP(num_classes=10, in_channels=1, image_size=(8, 8), widths=[16], dropout=0.5),
        [str(digit) for digit in range(10)],
        lr_scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5),
    )
    options = {"max_epochs": EPOCHS, "limit_train_batches": BATCHES, "limit_val_batches": 1, "num_sanity_val_steps": 1}
    options |= {"callbacks": [RandomState(), stop, last], "enable_checkpointing": True, **settings}
    run = trainer(default_root_dir=folder, **options)
    write_durably(run)
    ckpt = {"ckpt_path": folder / LAST, "weights_only": True} if resume else {}
    try:
        run.fit(classifier, DigitsDataModule(), **ckpt)
    except InterruptedError:
        return stop.validated
    states = [classifier.state_dict(), run.optimizers[0].state_dict()["state"]]
    return states, [config.scheduler.state_dict() for config in run.lr_scheduler_configs], stop.validated


@pytest.mark.parametrize(
    ("settings", "written"),
    [
        ({}, range(7)),
        ({"accumulate_grad_batches": 2}, [0, 0, 2, 2, 4, 4, 6]),
        ({"val_check_interval": 3}, range(7)),
        ({"val_check_interval": 1}, range(7)),
        ({"limit_val_batches": 0, "val_check_interval": 1}, range(7)),
        ({"val_check_interval": 4, "check_val_every_n_epoch": None}, range(7)),
    ],
    ids=str,
)
def test_a_run_resumed_from_any_checkpoint_is_the_same_to_the_bit(settings: Any, written: Any, tmp_path: Path) -> None:
    """`written`: of each batch of the first epoch, the number of batches in the newest checkpoint when it begins."""
    uninterrupted = fit(tmp_path / "uninterrupted", **settings)
    for at in (0, 1, 3, 4, BATCHES, BATCHES + 4):
        folder = tmp_path / str(at)
        validated = fit(folder, stop=Stop(at), **settings)
        batches = read_checkpoint(folder / LAST)["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["processed"]
        if at < BATCHES:
            assert batches == written[at]
        *states, later = fit(folder, resume=True, **settings)
        torch.testing.assert_close((*states, {**validated, **later}), uninterrupted, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("settings", "steps"),
    [({}, [BATCHES, 2 * BATCHES]), ({"val_check_interval": 3}, [3, 6]), ({"accumulate_grad_batches": 2}, [4, 8])],
    ids=str,
)
def test_a_run_that_ended_in_a_validation_validates_first_when_it_is_resumed(
    settings: Any, steps: list[int], tmp_path: Path
) -> None:
    """Also where it ends there once more. The checkpoint of the step before is enough: nothing is trained again."""
    uninterrupted = fit(tmp_path / "uninterrupted", **settings)
    for step in steps:
        folder = tmp_path / str(step)
        validated = fit(folder, stop=Stop(step, in_validation=True), **settings)
        checkpoint = read_checkpoint(folder / LAST)
        assert checkpoint["global_step"] == step
        assert step not in validated
        again = fit(folder, resume=True, stop=Stop(step, in_validation=True), **settings)
        assert again == {}
        *states, later = fit(folder, resume=True, **settings)
        torch.testing.assert_close((*states, {**validated, **later}), uninterrupted, rtol=0, atol=0)
