"""The content of the classifier's checkpoint, rebuilding and resuming from it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from small_classifier import NAMES, Data, small, trainer

from litlens.models.classifier import ImageClassifier
from litlens.models.networks.scratch import LeNet5


def test_the_checkpoint_is_plain_and_rebuilds_the_network(data: Data, tmp_path: Path) -> None:
    seed_everything(0)
    network = LeNet5(num_classes=3, image_size=(12, 12), activation="relu")
    classifier = ImageClassifier(network, NAMES, loss="mse", label_smoothing=0.1, l2=0.001, mixup=0.2)
    run = trainer()
    run.fit(classifier, data)
    run.save_checkpoint(tmp_path / "x.ckpt")
    checkpoint = torch.load(tmp_path / "x.ckpt", weights_only=True)
    assert all(name.startswith("network.") for name in checkpoint["state_dict"])
    about = checkpoint["litlens"]
    assert about["format"] == 2
    assert about["class_names"] == NAMES
    assert about["model"]["class_path"] == "litlens.models.classifier.ImageClassifier"
    arguments = dict(about["model"]["init_args"])
    spec = arguments.pop("network")
    assert spec["class_path"] == "litlens.models.networks.scratch.LeNet5"
    again = ImageClassifier(LeNet5(**spec["init_args"]), **arguments)
    again.load_state_dict(checkpoint["state_dict"])
    (expected,) = trainer().test(classifier, data, verbose=False)
    assert trainer().test(again, data, verbose=False) == [expected]
    assert (again.loss, again.label_smoothing, again.l2, again.mixup) == ("mse", 0.1, 0.001, 0.2)


def test_an_entry_of_a_callback_in_the_checkpoint_is_not_changed(data: Data, tmp_path: Path) -> None:
    class Says(Callback):
        def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
            checkpoint.setdefault("litlens", {})["seed"] = 3

    run = trainer(callbacks=[Says()])
    run.fit(small(), data)
    run.save_checkpoint(tmp_path / "x.ckpt")
    about = torch.load(tmp_path / "x.ckpt", weights_only=True)["litlens"]
    assert about["seed"] == 3
    assert about["class_names"] == NAMES


def test_the_sums_of_an_unfinished_epoch_are_continued_after_a_resume(data: Data, tmp_path: Path) -> None:
    class Saves(Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            if trainer.global_step == 2:
                trainer.save_checkpoint(tmp_path / "mid.ckpt")

    run = trainer(callbacks=[Saves()], limit_val_batches=0)
    run.fit(small(), data)
    (sums,) = torch.load(tmp_path / "mid.ckpt", weights_only=True)["litlens"]["epoch_sums"]
    assert sums[3] == 16
    assert resumed_sums([sums], rank=0, devices=1) == sums


@pytest.mark.parametrize("devices", [1, 2, 3])
def test_the_sums_of_two_devices_are_counted_once_on_any_number_of_devices(devices: int) -> None:
    sums = [[1.0, 10.0, 5.0, 20.0], [2.0, 30.0, 7.0, 21.0]]
    resumed = [resumed_sums(sums, rank=rank, devices=devices) for rank in range(devices)]
    assert [sum(column) for column in zip(*resumed, strict=True)] == [3.0, 40.0, 12.0, 41.0]
    assert devices != 2 or resumed == sums


def resumed_sums(sums: list[list[float]], *, rank: int, devices: int) -> list[float]:
    fresh, of_the_device = small(), SimpleNamespace(global_rank=rank, world_size=devices)
    fresh.on_load_checkpoint({"litlens": {"epoch_sums": sums}})
    fresh.trainer = of_the_device  # type: ignore[assignment]
    fresh.on_train_start()
    return list(fresh._epoch.to_dict().values())
