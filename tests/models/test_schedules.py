"""Each schedule steps at its interval, and missing lengths follow from the trainer."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import LightningCLI, LRSchedulerCallable
from lightning.pytorch.cli import ReduceLROnPlateau as Plateau
from torch import nn
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CyclicLR,
    ExponentialLR,
    OneCycleLR,
    ReduceLROnPlateau,
    StepLR,
)
from torch.utils.data import DataLoader, TensorDataset

from litlens.errors import UserError
from litlens.models.classifier import ImageClassifier
from litlens.models.schedules import CosineLR, WarmupCosineLR, schedule


class Rates(Callback):
    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def rates(
    make: LRSchedulerCallable, *, callbacks: Sequence[Callback] = (), ckpt_path: Path | None = None, **settings: Any
) -> list[float]:
    """The learning rate of each of the 3 epochs' 4 steps."""
    data = TensorDataset(torch.zeros(16, 1, 1, 2), torch.zeros(16, dtype=torch.int64))
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    classifier = ImageClassifier(
        network, ["a", "b"], optimizer=partial(torch.optim.SGD, lr=1.0, momentum=0.9), lr_scheduler=make
    )
    watch = Rates()
    trainer = Trainer(
        **{
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "max_epochs": 3,
            "callbacks": [watch, *callbacks],
            **settings,
        }
    )
    trainer.fit(classifier, DataLoader(data, batch_size=4), DataLoader(data, batch_size=16), ckpt_path=ckpt_path)
    return watch.rates


def test_per_epoch() -> None:
    assert rates(partial(StepLR, step_size=1, gamma=0.5)) == [1.0] * 4 + [0.5] * 4 + [0.25] * 4
    assert rates(partial(ExponentialLR, gamma=0.1)) == pytest.approx([1.0] * 4 + [0.1] * 4 + [0.01] * 4)


@pytest.mark.parametrize("kind", [CosineLR, CosineAnnealingLR])
def test_a_cosine_ends_with_the_training(kind: Any) -> None:
    expected = [(1 + math.cos(math.pi * epoch / 3)) / 2 for epoch in range(3) for _ in range(4)]
    assert rates(partial(kind, T_max=None)) == pytest.approx(expected)
    assert rates(kind) == pytest.approx(expected)
    assert rates(partial(kind, T_max=6))[4] == pytest.approx((1 + math.cos(math.pi / 6)) / 2)


def test_one_cycle_is_per_step_and_as_long_as_the_training() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    reference = OneCycleLR(optimizer, max_lr=0.1, total_steps=12)
    expected = []
    for _ in range(12):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    assert rates(partial(OneCycleLR, max_lr=0.1)) == pytest.approx(expected[:12])
    assert rates(lambda it: OneCycleLR(it, max_lr=0.1, total_steps=12)) == pytest.approx(expected)


@pytest.mark.parametrize("make", [partial(WarmupCosineLR, warmup=0.25, total_steps=None), WarmupCosineLR])
def test_a_warm_up_and_a_cosine_are_per_step_and_as_long_as_the_training(make: Any) -> None:
    warm = 3 if isinstance(make, partial) else 1
    rise = [0.01 + 0.99 * step / warm for step in range(warm)]
    fall = [(1 + math.cos(math.pi * step / (12 - warm))) / 2 for step in range(12 - warm)]
    assert rates(make) == pytest.approx(rise + fall)
    optimizer = two_groups()
    schedule(make, optimizer, Trainer(max_steps=20))
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.01])


@pytest.mark.parametrize("warmup", [0, 1, -0.5])
def test_a_warm_up_is_a_part_of_the_training(warmup: float) -> None:
    with pytest.raises(UserError, match=r"WarmupCosineLR: warmup: .* between 0 and 1"):
        WarmupCosineLR(two_groups(), total_steps=9, warmup=warmup)


def test_cyclic_is_per_step() -> None:
    found = rates(partial(CyclicLR, base_lr=0.1, max_lr=0.5, step_size_up=4))
    assert found[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (partial(OneCycleLR, max_lr=1.0, total_steps=5, pct_start=0.5, anneal_strategy="linear"), [0.04, 0.68, 0.8]),
        (partial(CyclicLR, base_lr=0.5, max_lr=2.0, step_size_up=3), [0.5, 1.0, 1.5]),
    ],
)
@pytest.mark.parametrize("settings", [{}, {"cycle_momentum": True}], ids=["left out", "as the command line gives it"])
def test_cycles_work_without_a_momentum(make: Any, expected: list[float], settings: Any) -> None:
    optimizer = torch.optim.Adagrad([nn.Parameter(torch.zeros(1))], lr=1.0)
    cyclic: Any = schedule(partial(make, **settings), optimizer, Trainer())["scheduler"]
    seen = []
    for _ in expected:
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cyclic.step()
    assert seen == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_a_cycle_moves_the_momentum_where_there_is_one(kind: Any) -> None:
    optimizer = kind([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule(partial(OneCycleLR, max_lr=1.0, total_steps=5), optimizer, Trainer())
    group = optimizer.param_groups[0]
    assert (group["momentum"] if "momentum" in group else group["betas"][0]) == 0.95


def test_plateau_lowers_the_rate_where_the_loss_does_not_fall() -> None:
    # All images are zero, so the loss falls slowly: a threshold of 1 is never met.
    make = partial(ReduceLROnPlateau, patience=0, threshold=1.0, factor=0.5)
    assert rates(make) == [1.0] * 4 + [0.5] * 4 + [0.25] * 4


def test_plateau_monitors_the_metric_that_it_names() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    assert schedule(partial(ReduceLROnPlateau), optimizer, Trainer())["monitor"] == "loss/val"
    assert schedule(partial(Plateau, monitor="loss/train"), optimizer, Trainer())["monitor"] == "loss/train"
    # Accuracy stays at 1, so that it never falls; the loss continues to fall.
    options: Any = {"patience": 0, "threshold": 0.0, "factor": 0.5}
    assert rates(partial(Plateau, monitor="accuracy/train", **options)) == [1.0] * 4 + [1.0] * 4 + [0.5] * 4
    assert rates(partial(Plateau, monitor="loss/train", **options)) == [1.0] * 12


def test_plateau_steps_where_there_is_a_validation() -> None:
    options: Any = {"patience": 0, "threshold": 1.0, "factor": 0.5}  # as above, never met
    every_third: Any = {"max_epochs": 7, "check_val_every_n_epoch": 3}
    assert rates(partial(ReduceLROnPlateau, **options), **every_third) == [1.0] * 12 + [0.5] * 12 + [0.25] * 4
    found = rates(partial(Plateau, monitor="loss/train", **options), **every_third)
    assert found == [0.5**epoch for epoch in range(7) for _ in range(4)]


def two_groups() -> torch.optim.SGD:
    weights = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    return torch.optim.SGD([{"params": weights[0], "lr_scale": 0.1}, {"params": weights[1]}], lr=1.0)


def test_rates_of_groups_keep_their_ratio_in_one_cycle() -> None:
    optimizer = two_groups()
    schedule(partial(OneCycleLR, max_lr=2.0, total_steps=5, cycle_momentum=False), optimizer, Trainer())
    assert [group["max_lr"] for group in optimizer.param_groups] == [0.2, 2.0]


def test_rates_of_groups_keep_their_ratio_in_cycles() -> None:
    optimizer = two_groups()
    make = partial(CyclicLR, base_lr=0.5, max_lr=2.0, step_size_up=3, cycle_momentum=False)
    cyclic: Any = schedule(make, optimizer, Trainer())["scheduler"]
    seen = []
    for _ in range(4):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        cyclic.step()
    expected = [[0.05, 0.5], [0.1, 1.0], [0.15, 1.5], [0.2, 2.0]]
    assert seen == [pytest.approx(pair) for pair in expected]


@pytest.mark.parametrize("make", [partial(OneCycleLR, max_lr=0.1), WarmupCosineLR, CosineLR])
def test_an_endless_training_has_no_length(make: Any) -> None:
    with pytest.raises(UserError, match="max_epochs"):
        rates(make, max_epochs=-1)


@pytest.mark.parametrize("kind", [CosineLR, CosineAnnealingLR])
def test_a_cosine_as_long_as_the_training_cannot_change_its_length_on_resume(kind: Any, tmp_path: Path) -> None:
    class Saves(Callback):
        def on_train_epoch_end(self, trainer: Any, *args: Any) -> None:
            if trainer.current_epoch == 1:
                trainer.save_checkpoint(tmp_path / "x.ckpt")

    def resumed(make: Any, epochs: int) -> list[float]:
        return rates(make, max_epochs=epochs, ckpt_path=tmp_path / "x.ckpt")

    whole = rates(kind, callbacks=[Saves()])
    assert resumed(kind, 3) == pytest.approx(whole[8:])
    for epochs in (2, 6):
        with pytest.raises(UserError, match=f"T_max is 3 in the checkpoint and {epochs} here"):
            resumed(kind, epochs)
    # One that was given stays what the user said.
    assert resumed(partial(kind, T_max=3), 4)[:4] == pytest.approx(whole[8:])


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("{class_path: OneCycleLR, init_args: {max_lr: 0.1}}", OneCycleLR),
        ("{class_path: CosineLR}", CosineLR),
        ("{class_path: WarmupCosineLR, init_args: {warmup: 0.2}}", WarmupCosineLR),
        ("{class_path: StepLR, init_args: {step_size: 1}}", StepLR),
        ("{class_path: torch.optim.lr_scheduler.ReduceLROnPlateau}", ReduceLROnPlateau),
    ],
)
def test_from_the_command_line(text: str, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train.py"])
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning 2.6 uses an older interface of it
    data = TensorDataset(torch.zeros(16, 1, 28, 28), torch.zeros(16, dtype=torch.int64))
    command = LightningCLI(
        ImageClassifier,
        run=False,
        save_config_callback=None,
        auto_configure_optimizers=False,
        seed_everything_default=1,
        trainer_defaults={
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "max_epochs": 1,
        },
        args=[
            "--model.network",
            "{class_path: litlens.models.networks.mlp.MLP, init_args: {widths: [4], num_classes: 2}}",
            "--model.class_names",
            "[a, b]",
            "--model.optimizer",
            "{class_path: SGD, init_args: {lr: 0.1, momentum: 0.9, nesterov: true}}",
            "--model.lr_scheduler",
            text,
        ],
    )
    command.trainer.fit(command.model, DataLoader(data, batch_size=4), DataLoader(data, batch_size=16))
    (config,) = command.trainer.lr_scheduler_configs
    assert type(config.scheduler) is kind
    assert config.interval == ("step" if kind in (OneCycleLR, WarmupCosineLR) else "epoch")
    assert command.trainer.optimizers[0].defaults["nesterov"]
    assert command.model.network.arguments["widths"] == [4]


def test_a_warm_up_of_one_step_is_refused_in_one_line() -> None:
    optimizer = torch.optim.AdamW([nn.Parameter(torch.ones(1))])
    with pytest.raises(UserError, match="pct_start leaves a warm-up of one step"):
        schedule(partial(OneCycleLR, max_lr=1.0, total_steps=5, pct_start=0.2), optimizer, Trainer())
