"""W&B's graph of a network, which comes from hooks; TensorBoard's is tested in test_live_callbacks.py."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from torch import nn

from litlens.callbacks.live.network_figures import ModelGraph
from litlens.callbacks.live.samples import Samples
from litlens.models.networks.scratch import MnistCNN

SAMPLES = Samples(
    torch.zeros(1, 1, 28, 28), np.zeros((1, 28, 28, 1), dtype=np.uint8), np.zeros(1, dtype=np.int64), ["a"]
)


@pytest.fixture
def logger(tmp_path, monkeypatch: pytest.MonkeyPatch):
    """A W&B run that stays in the folder."""
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with wandb.init(project="litlens", mode="offline", dir=tmp_path) as run:
        yield WandbLogger(experiment=run)


def shown(network: nn.Module, logger: WandbLogger) -> None:
    ModelGraph().show(SimpleNamespace(loggers=[logger]), SimpleNamespace(), network, SAMPLES)


def test_a_wandb_run_has_the_graph_and_the_network_no_trace_of_it(logger, capfd) -> None:
    network = MnistCNN(num_classes=10, in_channels=1, image_size=(28, 28))
    attributes = [set(vars(module)) for module in network.modules()]
    shown(network, logger)
    (file,) = Path(logger.experiment.dir).glob("media/graph/*.json")
    nodes = json.loads(file.read_text())["nodes"]
    assert sum(node["class_name"].startswith("Conv2d") for node in nodes) == 4
    assert sum(sum(node["num_parameters"]) for node in nodes) == 513_930
    assert [set(vars(module)) for module in network.modules()] == attributes
    assert not any(module._forward_hooks for module in network.modules())
    assert capfd.readouterr() == ("", "")
    logger.watch(network)  # as its owner may
    shown(network, logger)
    assert "_wandb_watch_called" in vars(network)


def test_a_failed_trace_is_reported_without_a_logging_setup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such a warning goes to the error stream, which is silent while W&B and the tracer are at work."""
    monkeypatch.setattr(logging.getLogger("litlens"), "propagate", False)
    network = nn.Linear(28, 3)
    monkeypatch.setattr(network, "forward", lambda images: 1 / 0)
    ModelGraph().show(SimpleNamespace(loggers=[TensorBoardLogger(tmp_path)]), SimpleNamespace(), network, SAMPLES)
    assert "ModelGraph: Linear cannot be traced: division by zero" in capsys.readouterr().err
