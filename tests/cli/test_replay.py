"""A replayed step is the one that was trained."""

import csv
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import litlens
from litlens.cli.main import train
from litlens.errors import UserError
from litlens.models.classifier import ImageClassifier

ROOT = Path(__file__).resolve().parents[2]
STEPS = 4
OPTIONS = [
    "--config",
    str(ROOT / "configs" / "digits_cnn.yaml"),
    "--trainer.accelerator=cpu",
    "--trainer.callbacks=[]",
    "--trainer.logger=false",
    "--trainer.enable_progress_bar=false",
    f"--trainer.limit_train_batches={2 * STEPS}",
    "--trainer.limit_val_batches=1",
    "--trainer.limit_test_batches=1",
    "--trainer.accumulate_grad_batches=2",
    "--data.augment+={zoom: 0.1}",
    "--data.sampling=balanced",
    "--model.mixup=0.4",
    "--model.lr_scheduler=null",
    "--early_stopping=null",
]


def _run(epochs: int) -> Path:
    before = set(Path().glob("runs/*/*"))
    train([*OPTIONS, f"--trainer.max_epochs={epochs}"])
    (folder,) = set(Path().glob("runs/*/*")) - before
    return folder


def test_a_step_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batches that the network got, augmented; after the first epoch, with dropout and MixUp, the same loss."""
    monkeypatch.chdir(tmp_path)
    seen: dict[int, list[tuple[Tensor, Tensor, Tensor]]] = {}
    plain = ImageClassifier.training_step

    def training_step(self: ImageClassifier, batch: Any, batch_idx: int) -> Tensor:
        loss = plain(self, batch, batch_idx)
        seen.setdefault(self.global_step, []).append((*batch, loss.detach()))
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(ImageClassifier, "training_step", training_step)
        _run(epochs=2)
    run = _run(epochs=1)
    with (run / "splits.csv").open() as file:
        label_of = {row["name"]: int(row["label"]) for row in csv.DictReader(file)}
    assert len(label_of) == 1797

    for step in (1, STEPS, STEPS + 2):
        found = litlens.replay(run, step)
        images, labels, losses = zip(*seen[step], strict=True)
        assert (found.epoch, list(found.batches)) == (step // STEPS, [2 * (step % STEPS), 2 * (step % STEPS) + 1])
        assert torch.equal(found.images, torch.cat(images))
        assert torch.equal(found.labels, torch.cat(labels))
        assert [label_of[name] for name in found.names] == found.labels.tolist()
        assert found.loss == (losses[0].item() if step == STEPS else None)


def test_a_trial_has_its_own_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search has 32 images in a batch."""
    monkeypatch.chdir(tmp_path)
    few = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2"]
    train([*OPTIONS, *few, "--search={data.batch_size: {choices: [24]}}", "--trials=1"])
    (trial,) = Path().glob("runs/*/*/trial-0")
    assert len(litlens.replay(trial, 0).names) == 2 * 24
    with pytest.raises(UserError, match=f"is a search, .* give {re.escape(str(trial))}"):
        litlens.replay(trial.parent, 0)


def test_no_run_and_no_such_step(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no .*config\.yaml: give the folder of a run"):
        litlens.replay(tmp_path, 0)
