"""The hardware in a checkpoint is what was used, not what the machine has."""

import re

import pytest
import torch

from litlens.checkpoints.provenance import hardware


@pytest.fixture(autouse=True)
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with two kinds of GPU."""
    names = {0: "Small GPU", 1: "Large GPU"}
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: len(names))
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device=None: names[device.index if device else 0])


def test_a_cpu_beside_gpus_is_named() -> None:
    named = hardware(torch.device("cpu"))
    assert "GPU" not in named
    assert re.search(rf" cores, {torch.get_num_threads()} threads$", named)


def test_the_gpu_that_was_used_is_named_with_their_number() -> None:
    assert hardware(torch.device("cuda", 1)) == "1 × Large GPU"
    assert hardware(torch.device("cuda", 0), number=2) == "2 × Small GPU"


def test_another_device_is_named_by_its_kind() -> None:
    assert hardware(torch.device("mps")) == f"mps of {hardware(torch.device('cpu'))}"
