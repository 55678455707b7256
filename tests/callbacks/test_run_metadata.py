"""Metadata of a run: the device in its checkpoint, the configuration in one level."""

from types import SimpleNamespace

import pytest
import torch

from litlens.callbacks.run_metadata import Provenance, flattened


@pytest.mark.parametrize(
    ("device", "devices", "expected"),
    [("cuda", 2, "2 × A GPU"), ("cpu", 1, f", {torch.get_num_threads()} threads")],
)
def test_the_device_of_the_trainer(monkeypatch, device, devices, expected) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device=None: "A GPU")
    strategy = SimpleNamespace(root_device=torch.device(device))
    trainer = SimpleNamespace(strategy=strategy, world_size=devices, precision="32-true", callback_metrics={})
    provenance, checkpoint = Provenance(), {}
    provenance.on_fit_start(trainer, None)
    trainer.current_epoch = 0
    provenance.on_save_checkpoint(trainer, None, checkpoint)
    assert checkpoint["litlens"]["computed_on"]["hardware"].endswith(expected)
    assert checkpoint["litlens"]["computed_on"]["devices"] == devices


def test_a_configuration_becomes_one_level() -> None:
    config = {
        "seed_everything": 42,
        "data": {
            "class_path": "litlens.data.datasets.arrays.MNISTDataModule",
            "init_args": {"augment": [{"shift": 0.1}]},
        },
        "model": {
            "class_path": "ImageClassifier",
            "init_args": {
                "network": {"class_path": "litlens.models.networks.scratch.MnistCNN", "init_args": {"dropout": 0.5}},
                "class_names": ["0", "1"],
                "init_from": None,
                "channels_last": True,
                "weights": "weights/vgg16.v1.pth",
            },
        },
        "trainer": {"precision": "bf16-mixed", "callbacks": [{"class_path": "X"}], "enable_progress_bar": True},
        "model_checkpoint": {"init_args": {"monitor": "loss/val"}},
    }
    assert flattened(config) == {
        "seed_everything": 42,
        "data": "MNISTDataModule",
        "data.augment": "[{'shift': 0.1}]",
        "model": "ImageClassifier",
        "model.network": "MnistCNN",
        "model.network.dropout": 0.5,
        "model.channels_last": True,
        "model.weights": "weights/vgg16.v1.pth",
        "trainer.precision": "bf16-mixed",
    }
