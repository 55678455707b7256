"""W&B's graph of a network, which comes from hooks; TensorBoard's is looked for in test_all_of_them.py."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import WandbLogger
from torch import nn

from litlens.callbacks.live.model_graph import ModelGraph
from litlens.callbacks.live.shown_samples import Samples
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
