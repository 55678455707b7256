"""Networks and classifiers that are not litlens': trained, evaluated, resumed, reloaded and explained."""

import os
import re
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from foreign_networks import Random
from PIL import Image

from litlens.checkpoints.loaded_classifier import load_classifier
from litlens.checkpoints.reading import read_checkpoint
from litlens.cli.main import evaluate, train

TESTS = Path(__file__).resolve().parents[1]
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu", "--trainer.enable_model_summary=false"]
NETWORKS = {
    "linked": ["--model.network=foreign_networks.Linked", "--model.network.width=4"],
    "all defaults": ["--model.network=foreign_networks.AllDefaults"],
    "unlinked": ["--model.network=foreign_networks.Unlinked", "--model.network.width=3"],
    "module": [
        "--model.network=foreign_networks.WithModule",
        "--model.network.act=torch.nn.LeakyReLU",
        "--model.network.act.negative_slope=0.3",
        "--model.network.norm=torch.nn.InstanceNorm2d",
        "--model.network.width=4",
    ],
    "item": ["--model.network=foreign_networks.WithItem"],
    # The second replaces a class with options, as on top of a config.
    "resnet18": [
        "--model.network=MnistCNN",
        "--model.network.dropout=0",
        "--model.network=torchvision.models.resnet18",
    ],
    # Its size, which is not that of timm's weights, follows from the data.
    "timm": [
        "--model.network=timm.create_model",
        "--model.network.model_name=test_vit",
        "--model.network.dict_kwargs.patch_size=2",
    ],
    "classifier": [
        "--model=foreign_networks.Tempered",
        "--model.temperature=5.0",
        "--model.network=MLP",
        "--model.network.widths=[4]",
    ],
    "undescribed": ["--model.network=foreign_networks.Random"],
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Three classes of eight color images of 8×8, in the folder that the commands run in."""
    draw = np.random.default_rng(0)
    for label, name in enumerate("abc"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(8):
            pixels = draw.integers(80, size=(8, 8, 3), dtype=np.uint8)
            pixels[:, :, label] += 150
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trained(options: list[str], *, epochs: int = 1) -> Path:
    data = ["--data=FolderDataModule", "--data.folder=data", "--data.image_size=8", "--data.batch_size=4"]
    model = [] if any(option.startswith("--model=") for option in options) else ["--model=ImageClassifier"]
    train([*data, *model, *options, *QUIET, f"--trainer.max_epochs={epochs}"])
    (run,) = Path("runs/run").iterdir()
    return run


@pytest.mark.parametrize("kind", NETWORKS)
def test_trains_evaluates_resumes_reloads_and_explains(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    if kind == "timm":
        pytest.importorskip("timm")
    Random.count = 0
    run = trained(NETWORKS[kind])
    page = (run / "report.html").read_text()
    undescribed = "rebuilt, it differs in network.features.weight" in capsys.readouterr().out
    assert undescribed == (kind == "undescribed")
    explained = "Grad-CAM of " in page  # an overlay's name
    assert explained == ("No Grad-CAM" not in page) == (kind != "classifier")  # whose network has no convolution
    if not undescribed:
        (run / "report.html").unlink()
        evaluate(["--ckpt_path", str(run), "--accelerator=cpu"])
        assert (run / "report.html").read_text() == page
        if kind == "classifier":
            assert load_classifier(run).classifier.temperature == 5.0
        if kind == "resnet18":
            twin = torchvision.models.resnet18(num_classes=3).eval()
            loaded = load_classifier(run).classifier
            twin.load_state_dict(loaded.network.state_dict())
            images = torch.rand(2, 3, 8, 8)
            assert torch.allclose(twin(images), loaded(images), atol=1e-5)
    Random.count = 0
    train(["--resume", str(run), "--trainer.max_epochs=2", *QUIET])
    assert read_checkpoint(run / "checkpoints" / "last.ckpt")["epoch"] == 1


def test_every_argument_of_a_foreign_network_comes_back() -> None:
    run = trained(NETWORKS["module"])
    network = load_classifier(run).classifier.network
    assert isinstance(network.act, torch.nn.LeakyReLU)
    assert network.act.negative_slope == 0.3
    assert isinstance(network.norm, torch.nn.InstanceNorm2d)


@pytest.mark.parametrize(
    ("options", "reported"),
    [
        (["path=residual", "drop_path=0.1"], ["model.network.path: 'residual' may name weights or a file"]),
        (["path=weights/net.pth"], []),
        (["path=https://example.org/net.pth", "pretrained=true"], []),
    ],
)
def test_an_option_that_loading_sets_to_none_is_reported(
    options: list[str], reported: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """What may be a file or an address is not opened by loading; where it may as well be an option, a line says so."""
    own = [f"--model.network.{option}" for option in options]
    run = trained(["--model.network=foreign_networks.WithPath", *own])
    written = [line for line in capsys.readouterr().out.splitlines() if line.startswith("model.network.")]
    assert [line.partition(": it is None")[0] for line in written] == reported
    network = load_classifier(run).classifier.network
    assert (network.path, network.pretrained or None) == (None, None)
    assert network.drop_path == (0.1 if "drop_path=0.1" in options else 0.0)


def test_another_process_imports_a_foreign_module_only_where_it_is_trusted() -> None:
    run = trained(NETWORKS["linked"])
    command = [sys.executable, str(TESTS.parent / "evaluate.py"), "--ckpt_path", str(run), "--accelerator=cpu"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
    refused = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "--trust foreign_networks" in refused.stderr
    assert refused.stderr.count("\n") == 1
    done = subprocess.run([*command, "--trust", "foreign_networks"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "test accuracy" in done.stdout


def test_a_bug_in_the_users_own_network_keeps_its_traceback() -> None:
    with pytest.raises(ValueError, match="too many values to unpack") as failure:
        trained(["--model.network=foreign_networks.Broken"])
    frames = traceback.extract_tb(failure.tb)
    assert frames[-1].filename.endswith("foreign_networks.py")
    assert frames[-1].line == "self.width, self.height = (num_classes,) * 3"


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ("--model.network=foreign_netwroks.Linked", "model.network: .* no module foreign_netwroks: .* PYTHONPATH"),
        ("--model.network=foreign_networks.Linkd", "model.network: foreign_networks has no Linkd; .* 'Linked'?"),
        ("--model.network=MnistCN", "model.network: there is no class 'MnistCN'; did you mean 'MnistCNN'?"),
        ("--model=ImageClasifier", "model: there is no class 'ImageClasifier'; did you mean 'ImageClassifier'?"),
        ("--model=foreign_networks.Tempred", "model: foreign_networks has no Tempred; did you mean 'Tempered'?"),
        ("--model=foreign_netwroks.Tempered", "model: .* there is no module foreign_netwroks: .* PYTHONPATH"),
    ],
)
def test_a_misspelled_class_is_one_line(option: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        trained([option])
    (written,) = capsys.readouterr().err.splitlines()
    assert re.search(line, written)
    assert len(written) < 200
    assert not list(Path().glob("runs/*/*"))
