"""Training steps of the command, with the callbacks, loggers and bar that it has by default, against a hand loop."""

import argparse
import contextlib
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from on_gpu.timing import DEVICE, SEED, now
from speed_rows.row import Row, row
from torch import Tensor, nn

import litlens
from litlens.cli.parser import TrainingCommand
from litlens.cli.train import build

Batch = tuple[Tensor, Tensor]
Network = Callable[[int], nn.Module]


def step(options: argparse.Namespace) -> list[Row]:
    """The CNNs, bf16 and channels last on both sides, and the MLP, where Lightning's own share is the largest.

    Four times with new networks on both sides: a CNN is up to 3 % faster or slower by where its memory lies.
    """
    cases: list[tuple[str, Network, tuple[int, ...], bool, float]] = [
        ("MnistCNN", lambda classes: litlens.MnistCNN(classes, inner_activation="relu"), (64, 1, 28, 28), True, 1.02),
        ("BottleneckCNN", lambda classes: litlens.BottleneckCNN(classes), (64, 1, 90, 90), True, 1.02),
        ("FashionMLP", lambda classes: litlens.FashionMLP(classes), (128, 1, 28, 28), False, 1.5),
    ]
    rows = []
    for name, network, shape, bf16, at_most in cases[-1:] if options.quick else cases:
        steps, turns = (1, 1) if options.quick else (10, 6) if bf16 else (200, 8)
        seconds: list[list[float]] = [[], []]
        for _ in range(1 if options.quick else 4):
            ours, hand = Ours(network, shape, bf16=bf16), HandLoop(network, shape, bf16=bf16)
            for side, taken in zip(seconds, ours.against(hand, steps=steps, turns=turns), strict=True):
                side += taken
        what = f"training step of {name}, batch {shape[0]}, {'bf16' if bf16 else 'float32'}, every callback, logger"
        rows.append(row(f"{what} and bar, against a hand loop", *seconds, at_most=at_most))
    return rows


def settings(options: argparse.Namespace) -> list[Row]:
    """The CNNs in the settings of the shipped configs, bf16 and channels last, against a plain loop in float32."""
    cases: list[tuple[str, Network, tuple[int, ...]]] = [
        (
            "mnist_cnn",
            lambda classes: litlens.MnistCNN(classes, inner_activation="relu"),
            (2 if options.quick else 64, 1, 28, 28),
        ),
        ("fonts_bottleneck", lambda classes: litlens.BottleneckCNN(classes, activation="silu"), (64, 1, 90, 90)),
    ]
    rows = []
    for config, network, shape in cases[: 1 if options.quick else None]:
        steps, turns = (1, 1) if options.quick else (10, 8)
        hand = HandLoop(network, shape, bf16=False, channels_last=False)
        seconds = Ours(network, shape, bf16=True).against(hand, steps=steps, turns=turns)
        what = f"training step of {config}, bf16 and channels last, every callback, against a hand loop in float32"
        rows.append(row(f"{what}, contiguous", *seconds, at_least=2.0))
    return rows


def random_batch(shape: tuple[int, ...], classes: int) -> Batch:
    """Images and labels, on the device."""
    generator = torch.Generator().manual_seed(SEED)
    labels = torch.randint(classes, shape[:1], generator=generator)
    return torch.randn(shape, generator=generator).to(DEVICE), labels.to(DEVICE)


class HandLoop:
    """The usual training loop over one batch, with the fastest form of the same optimizer; no metrics, no checks."""

    def __init__(
        self, network: Network, shape: tuple[int, ...], *, bf16: bool, channels_last: bool = True, classes: int = 10
    ) -> None:
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.network = network(classes).to(DEVICE, memory_format=self.format).train()
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-3, fused=True)
        self.batch, self.bf16 = random_batch(shape, classes), bf16

    def run(self, steps: int) -> None:
        """Some steps."""
        for images, labels in itertools.repeat(self.batch, steps):
            with torch.autocast(DEVICE.type, torch.bfloat16, enabled=self.bf16):
                logits = self.network(images.contiguous(memory_format=self.format))
            loss = nn.functional.cross_entropy(logits.float(), labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()


class Ours:
    """The same steps under the trainer that `train.py` builds, its bar drawn as in a terminal."""

    def __init__(self, network: Network, shape: tuple[int, ...], *, bf16: bool, classes: int = 10) -> None:
        names = [str(label) for label in range(classes)]
        self.classifier = litlens.ImageClassifier(
            network(classes), names, optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-3, fused=True)
        )
        self.batch, self.precision = random_batch(shape, classes), "bf16-mixed" if bf16 else "32-true"

    def against(self, hand: HandLoop, *, steps: int, turns: int) -> list[list[float]]:
        """Seconds of a step, ours and the hand loop's in turn, so many each, in one epoch; the first turn warms up."""
        taken = _Turns(hand, steps=steps)
        arguments = ["--data=DigitsDataModule", "--model=ImageClassifier", "--model.network=FashionMLP"]
        arguments += [f"--trainer.precision={self.precision}", "--trainer.enable_progress_bar=true"]
        arguments += [f"--trainer.accelerator={'gpu' if DEVICE.type == 'cuda' else 'cpu'}", "--trainer.devices=1"]
        with terminal(), tempfile.TemporaryDirectory() as folder:
            trainer = build(TrainingCommand([*arguments, "--trainer.max_epochs=1"]), Path(folder)).trainer
            trainer.callbacks.append(taken)  # type: ignore[attr-defined]
            batches = Repeated(self.batch, steps * (turns + 1))
            trainer.fit(self.classifier, train_dataloaders=batches, val_dataloaders=Repeated(self.batch, 1))
        return [[seconds / steps for seconds in side[1:]] for side in (taken.ours, taken.theirs)]


class Repeated:
    """One batch again and again, as a loader."""

    def __init__(self, batch: Batch, number: int) -> None:
        self.batch, self.number = batch, number

    def __len__(self) -> int:
        return self.number

    def __iter__(self) -> Iterator[Batch]:
        return itertools.repeat(self.batch, self.number)


class _Turns(Callback):
    """After so many steps of the trainer, time as many of the hand loop."""

    def __init__(self, hand: HandLoop, *, steps: int) -> None:
        self.hand, self.steps = hand, steps
        self.ours: list[float] = []
        self.theirs: list[float] = []
        self._start = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = now()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % self.steps:
            return
        self.ours.append(now() - self._start)
        start = now()
        self.hand.run(self.steps)
        self.theirs.append(now() - start)
        self._start = now()


@contextlib.contextmanager
def terminal() -> Iterator[None]:
    """What is printed goes nowhere, but is drawn as in a terminal."""
    with (
        mock.patch.dict(os.environ, {"FORCE_COLOR": "1", "TERM": "xterm-256color"}),
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
    ):
        yield
