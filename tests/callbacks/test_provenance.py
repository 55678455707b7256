"""A checkpoint names the device that its trainer used."""

from types import SimpleNamespace

import pytest
import torch

from litlens.callbacks.run_metadata import Provenance


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
