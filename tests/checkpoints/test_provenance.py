"""Hardware and code in a checkpoint are those that were used, not what the machine or the current folder has."""

import importlib
import re
import subprocess
from pathlib import Path

import pytest
import torch

from litlens.checkpoints.provenance import git_state, hardware


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


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    return subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


def test_the_commit_is_that_of_the_code_that_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mine", "elsewhere"):
        (tmp_path / name / "installed").mkdir(parents=True)
        (tmp_path / name / ".gitignore").write_text("installed\n__pycache__\n")
        (tmp_path / name / f"{name}_network.py").write_text("class Network: ...\n")
        git(tmp_path / name, "init", "--quiet")
        git(tmp_path / name, "add", ".")
        git(tmp_path / name, "commit", "--quiet", "-m", name)
    (tmp_path / "elsewhere" / "installed" / "installed_network.py").write_text("class Network: ...\n")
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.syspath_prepend(str(tmp_path / "mine"))
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere" / "installed"))
    network = importlib.import_module("mine_network").Network
    commit = git(tmp_path / "mine", "rev-parse", "HEAD").strip()
    installed = importlib.import_module("installed_network").Network
    assert git_state(installed, network) == git_state(dict, network) == {"commit": commit, "dirty": False}
    (tmp_path / "mine" / "mine_network.py").write_text("class Network: pass\n")
    assert git_state(network) == {"commit": commit, "dirty": True}
    assert git_state(installed) == git_state()
    assert git_state()["commit"] not in (commit, git(tmp_path / "elsewhere", "rev-parse", "HEAD").strip())
