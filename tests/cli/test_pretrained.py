"""What the command says of a pretrained network before the first step."""

from pathlib import Path

import pytest
import torch
import torchvision
import yaml
from PIL import Image

from litlens.checkpoints.loaded_classifier import load_classifier
from litlens.cli.main import train

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture(autouse=True)
def _photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Color images of two classes in `photos`, gray ones in `scans`, and weights in `w.pth`."""
    monkeypatch.chdir(tmp_path)
    torch.save(torchvision.models.squeezenet1_1().state_dict(), "w.pth")
    for folder, mode in (("photos", "RGB"), ("scans", "L")):
        for name in ("cat", "dog"):
            (tmp_path / folder / name).mkdir(parents=True)
            for number in range(20):
                image = Image.new("RGB", (64, 64), (10 * number, 50, 0)).convert(mode)
                image.save(tmp_path / folder / name / f"{number}.png")


OPTIONS = [
    "--data=FolderDataModule",
    "--data.folder=photos",
    "--data.image_size=64",
    "--model=TransferClassifier",
    "--model.network=TransferNetwork",
    "--model.network.backbone=squeezenet1_1",
]


def test_data_that_the_weights_do_not_want_leave_no_run_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        train([*OPTIONS, "--model.network.weights=w.pth", "--data.normalize=half", "--trainer.max_epochs=1"])
    assert stop.value.code == 1
    assert capsys.readouterr().err.startswith("error: data.normalize: the weights were trained ")
    assert not list((tmp_path / "runs").rglob("*.yaml"))


@pytest.mark.parametrize(
    ("options", "mean"),
    [
        # A file counts as the network's default weights, whatever its name.
        (["--model.network.weights=w.pth"], [0.485, 0.456, 0.406]),
        (["--model.network.weights=w.pth", "--data.folder=scans", "--data.channels=1"], [0.449]),
        (["--model.network.weights=w.pth", "--model.network.normalization=half"], [0.5, 0.5, 0.5]),
    ],
)
def test_auto_takes_the_constants_of_the_weights(options: list[str], mean: list[float], tmp_path: Path) -> None:
    train([*OPTIONS, *options, "--trainer.max_epochs=1", "--trainer.callbacks=[]"])
    (config,) = (tmp_path / "runs").glob("*/*/config.yaml")
    assert yaml.safe_load(config.read_text())["data"]["init_args"]["normalize"]["mean"] == pytest.approx(mean)
    loaded = load_classifier(config.parent / "checkpoints" / "best.ckpt")
    assert loaded.preprocessing is not None
    assert loaded.preprocessing.normalize.mean == pytest.approx(mean)


def test_auto_takes_the_constants_of_weights_that_timms_function_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("timm")
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *_args, **_options: None)  # a download
    network = ["--model.network=timm.create_model", "--model.network.model_name=test_vit"]
    options = [*OPTIONS[:3], "--model=ImageClassifier", *network, "--model.network.pretrained=true"]
    train([*options, "--trainer.max_epochs=1", "--trainer.callbacks=[]"])
    (run,) = (tmp_path / "runs").glob("*/*")
    loaded = load_classifier(run)
    assert loaded.preprocessing is not None
    assert loaded.preprocessing.normalize.mean == loaded.preprocessing.normalize.std == (0.5, 0.5, 0.5)
    assert loaded.predict(tmp_path / "photos" / "cat" / "0.png").keys() == {"cat", "dog"}


def test_the_recipe_of_ones_own_images_and_the_frozen_recipe_go_together(tmp_path: Path) -> None:
    """The README's data block, and the model of a shipped config, on a small network: at the first try."""
    frozen = yaml.safe_load((CONFIGS / "catdog_vgg16_frozen.yaml").read_text())
    frozen["model"]["init_args"]["network"]["init_args"].update(backbone="squeezenet1_1", weights="w.pth")
    frozen["trainer"] = {"max_epochs": 2, "callbacks": []}
    data = {"folder": "photos", "image_size": 100, "augment": ["horizontal_flip", "rotation", "zoom"]}
    frozen["data"] = {"class_path": "FolderDataModule", "init_args": data}
    Path("mine.yaml").write_text(yaml.safe_dump(frozen))
    train(["--config=mine.yaml"])
    assert len(list((tmp_path / "runs" / "mine").glob("*/report.html"))) == 1
