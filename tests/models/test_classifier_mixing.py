"""MixUp and CutMix in training steps: the counts, and the seed that the mixing follows from."""

from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from small_classifier import NAMES, Data, trainer
from torch import nn

from litlens.models.classifier import ImageClassifier


class Sees(nn.Module):
    """A linear model that records each training batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(144, 3)
        self.seen: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen.append(images)
        return self.layer(images.flatten(1))


def mixed(data: Data, seed: int, **settings: Any) -> tuple[ImageClassifier, Trainer]:
    """Two epochs at a learning rate of 0."""
    seed_everything(seed)
    still = partial(torch.optim.SGD, lr=0.0)
    classifier = ImageClassifier(Sees(), NAMES, optimizer=still, **settings)
    run = trainer(max_epochs=2)
    run.fit(classifier, data)
    return classifier, run


def test_accuracy_under_mixup_counts_the_true_classes(data: Data) -> None:
    classifier, run = mixed(data, 0, mixup=1.0)
    seen = classifier.network.seen[3:]
    right, loss = 0.0, 0.0
    with torch.no_grad():
        for images, start in zip(seen, (0, 8, 16), strict=True):
            whole, labels = data.images[start : start + 8], data.labels[start : start + 8]
            before = whole.roll(1, 0)
            # images = share * whole + (1 - share) * before, solved by least squares
            share = ((images - before) * (whole - before)).sum() / (whole - before).square().sum()
            torch.testing.assert_close(images, before + share * (whole - before), rtol=0, atol=1e-5)
            logits = classifier(images)
            right += (logits.argmax(1) == labels).sum().item()
            for part, target in ((share, labels), (1 - share, labels.roll(1))):
                loss += part * nn.functional.cross_entropy(logits, target, reduction="sum")
    assert run.callback_metrics["accuracy/train"].item() == pytest.approx(right / 23)
    assert run.callback_metrics["loss/train"].item() == pytest.approx(loss.item() / 23, rel=1e-5)
    clean = nn.functional.cross_entropy(classifier.eval()(data.images), data.labels)
    assert run.callback_metrics["loss/val"].item() == pytest.approx(clean.item(), rel=1e-5)


def test_mixing_follows_the_seed_and_differs_by_batch_and_epoch(data: Data) -> None:
    first = mixed(data, 5, mixup=0.4, cutmix=1.0)[0].network.seen
    again = mixed(data, 5, mixup=0.4, cutmix=1.0)[0].network.seen
    other = mixed(data, 6, mixup=0.4, cutmix=1.0)[0].network.seen
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert not torch.equal(first[0], first[3])  # the same images an epoch later
