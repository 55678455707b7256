"""`auto` in a config: numbers that follow from the images of a folder, and the recipe of configs/folder.yaml."""

from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import yaml
from image_folders import fill

from litlens.cli.automatic import recipe
from litlens.cli.main import train
from litlens.cli.parser import TrainingCommand
from litlens.models.transfer import TransferClassifier

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FOLDER = f"--config={CONFIGS / 'folder.yaml'}"


def refused(options: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        train(options)
    assert stopped.value.code == 1
    assert not Path("runs").exists()
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stand_ins: Path) -> Path:
    """100 images of two classes in the folder `mine`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(stand_ins / "torch"))
    return fill(tmp_path / "mine", {"a": 50, "b": 50})


def test_epochs_fall_and_batches_grow_with_the_number_of_images() -> None:
    numbers = [2, 10, 100, 500, 2000, 20_000, 100_000, 2_000_000]
    for pretrained in (True, False):
        sides, batches, epochs = zip(*(recipe(number, pretrained=pretrained) for number in numbers), strict=True)
        assert list(sides) == sorted(sides, reverse=True)
        assert list(batches) == sorted(batches)
        assert list(epochs) == sorted(epochs, reverse=True)
        assert {size & (size - 1) for size in batches} == {0}  # powers of two
        assert min(batches) >= 2  # batch norm


@pytest.mark.parametrize("weights", ["DEFAULT", "null"])
@pytest.mark.usefixtures("images")
def test_the_numbers_are_in_the_config_and_in_what_is_built(weights: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = TrainingCommand([FOLDER, "--data.folder=mine", f"--model.network.weights={weights}"])
    data = command.build_data()
    size, batch_size, epochs = recipe(100, pretrained=weights == "DEFAULT")
    config = command.resolved_config(data)
    assert config["data"]["init_args"]["image_size"] == [size, size] == list(data.image_size)
    assert config["data"]["init_args"]["batch_size"] == batch_size == data.batch_size
    assert config["trainer"]["max_epochs"] == epochs
    assert f"auto, for 100 images: data.image_size {size}, " in command.automatic
    classifier = command.build(command.config.clone(), data).model
    assert isinstance(classifier, TransferClassifier)
    network: Any = classifier.network
    assert network.arguments["image_size"] == (size, size)
    # The head alone, or all layers of a network with random weights.
    lowest = len(network.layer_names) if weights == "DEFAULT" else 0
    assert [classifier.first_trainable_layer(epoch) for epoch in (0, None)] == [lowest, lowest]
    assert (classifier.frozen_layers(0) is not None) == (weights == "DEFAULT")


@pytest.mark.usefixtures("images")
def test_a_number_that_is_given_stays() -> None:
    given = ["--data.image_size=32", "--data.batch_size=7", "--trainer.max_epochs=2"]
    command = TrainingCommand([FOLDER, "--data.folder=mine", *given])
    data = command.build_data()
    assert (command.automatic, data.image_size, data.batch_size) == ("", (32, 32), 7)
    assert command.config.trainer.max_epochs == 2


@pytest.mark.usefixtures("images")
def test_a_run_prints_and_keeps_the_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1", "--trainer.callbacks=[]"]
    train([FOLDER, "--data.folder=mine", "--data.image_size=32", "--trainer.max_epochs=1", *few])
    assert "auto, for 100 images: data.batch_size 4\n" in capsys.readouterr().out
    (config,) = Path("runs").glob("folder/*/config.yaml")
    assert yaml.safe_load(config.read_text())["data"]["init_args"]["batch_size"] == 4


@pytest.mark.usefixtures("images")
def test_without_weights_one_line_says_what_to_give(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def unreachable(*args: Any) -> None:
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    line = refused([FOLDER, "--data.folder=mine"], capsys)
    assert line == (
        "error: weights: DEFAULT of mobilenet_v2 could not be downloaded (<urlopen error no network>): "
        "give a state-dict file (--model.network.weights FILE), or null for random weights"
    )


def test_what_is_missing_or_too_small_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stand_ins: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "FolderDataModule needs folder" in refused([FOLDER], capsys)
    digits = [f"--config={CONFIGS / 'digits_cnn.yaml'}", "--trainer.max_epochs=auto"]
    assert "auto follows from the number of images in a folder: give a number" in refused(digits, capsys)
    fill(tmp_path / "tiny", {"a": 2, "b": 1})
    monkeypatch.setenv("TORCH_HOME", str(stand_ins / "torch"))
    assert refused([FOLDER, "--data.folder=tiny"], capsys).endswith(
        "data: 3 images are too few: none is left for test: add images"
    )


@pytest.mark.usefixtures("images")
def test_the_table_of_the_images_is_not_one_of_them(tmp_path: Path) -> None:
    rows = [f"{name}/{number:03}.png,{name}" for name in "ab" for number in range(50)]
    (tmp_path / "mine.csv").write_text("\n".join(["file,label", *rows]))
    command = TrainingCommand([FOLDER, "--data.folder=mine", "--data.csv=mine.csv"])
    command.build_data()
    assert "auto, for 100 images: " in command.automatic
