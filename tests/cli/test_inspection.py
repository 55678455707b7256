"""What `--inspect` prints and draws of a folder small enough to count by hand, and the table of layers."""

import os
import sys
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console
from torch import nn

from litlens.cli.inspection import inspect, layer_table
from litlens.cli.main import train
from litlens.data.datasets.arrays import DigitsDataModule
from litlens.data.datasets.folder import FolderDataModule
from litlens.models.backbones import TransferNetwork
from litlens.models.classifier import ImageClassifier
from litlens.models.networks.scratch import BottleneckCNN, CatDogCNN, MnistCNN
from litlens.models.transfer import TransferClassifier

ROOT = Path(__file__).resolve().parents[2]
# Gray value, height and width of each image. In order of area: 4×5 (20), 4×6 (24), 5×5 (25), 6×6 (36), 8×8 (64),
# 10×7 (70), 8×9 (72), 9×9 (81), 3×40 (120), 20×20 (400).
IMAGES = {
    "train/cat/1.png": (0, 4, 6),
    "train/cat/2.png": (51, 5, 5),
    "train/cat/3.png": (102, 10, 7),
    "train/dog/1.png": (153, 9, 9),
    "train/dog/2.png": (204, 3, 40),
    "val/cat/1.png": (10, 6, 6),
    "val/dog/1.png": (204, 20, 20),  # train/dog/2.png once more, at the network's size
    "test/cat/1.png": (20, 4, 5),
    "test/dog/1.png": (30, 8, 8),
    "test/dog/2.png": (40, 8, 9),
}


def draw(folder: Path, images: dict[str, tuple[int, int, int]]) -> Path:
    for name, (value, height, width) in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (width, height), value).save(folder / name)
    return folder


def inspected(folder: Path, *, sheet: Path, augment: Any = None) -> list[str]:
    """The printed lines, as on a UTF-8 terminal."""
    data = FolderDataModule(folder, image_size=2, channels=1, max_bad_files=0.9, augment=augment)
    terminal = TextIOWrapper(BytesIO(), "utf-8")
    inspect(data, folder=sheet, console=Console(file=terminal, width=200, markup=False, soft_wrap=True))
    terminal.seek(0)
    return [line.rstrip() for line in terminal]


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="their file names are Unicode")
def test_names_that_are_not_utf_8_are_printed(tmp_path: Path, caplog) -> None:
    caplog.set_level("ERROR", "litlens")  # pytest-xdist can pass no such name on, not even in a log that nobody reads
    folder = draw(tmp_path / "pets", IMAGES)
    (folder / "train" / "cat" / os.fsdecode(b"\xff.png")).write_text("no image")
    assert "  train/cat/\\xff.png (not an image)" in inspected(folder, sheet=tmp_path)


def test_the_output_agrees_with_a_count_by_hand(tmp_path: Path) -> None:
    folder = draw(tmp_path / "pets", IMAGES)
    (folder / "train" / "cat" / "4.png").write_text("no image")
    lines = inspected(folder, sheet=tmp_path / "sheet")
    assert lines == [
        "images    2×2, 1 channel(s), crop",
        "files     4×5 to 20×20, median 8×8 (by area)",
        "mean      0.4000",  # of 0, 0.2, 0.4, 0.6 and 0.8 in train
        "std       0.2828",  # √((0.4² + 0.2² + 0 + 0.2² + 0.4²) / 5) = √0.08
        " class  train  val  test",
        " cat    3      1    1",
        " dog    2      1    2",
        " all    5      2    3",
        "left out: 1",
        "  train/cat/4.png (not an image)",
        "duplicates across splits: 1",
        "  train/dog/2.png = val/dog/1.png",
        f"samples   {tmp_path / 'sheet' / 'inspect.png'}: one row per class, each image raw and augmented",
    ]


def test_files_of_one_size(tmp_path: Path) -> None:
    alike = draw(tmp_path / "alike", {name: (value, 4, 6) for name, (value, _, _) in IMAGES.items()})
    assert "files     all 4×6" in inspected(alike, sheet=tmp_path)


def test_images_in_memory_have_no_files(tmp_path: Path) -> None:
    terminal = StringIO()
    console = Console(file=terminal, width=200, markup=False, soft_wrap=True)
    inspect(DigitsDataModule(), folder=tmp_path, console=console)
    assert [line.split()[0] for line in terminal.getvalue().splitlines()[:3]] == ["images", "mean", "std"]


def test_only_the_first_ten_are_named(tmp_path: Path) -> None:
    folder = draw(tmp_path / "pets", IMAGES)
    for number in range(12):
        (folder / "train" / "dog" / f"bad{number:02}.png").touch()
    lines = inspected(folder, sheet=tmp_path)
    start = lines.index("left out: 12")
    assert lines[start + 1 : start + 11] == [f"  train/dog/bad{number:02}.png (an empty file)" for number in range(10)]
    assert lines[start + 11] == "  and 2 more"


def test_the_sheet_has_a_row_per_class_raw_and_augmented(tmp_path: Path) -> None:
    folder = draw(tmp_path / "pets", IMAGES)
    with Image.open(folder / "train" / "dog" / "1.png") as image:
        image.paste(255, (0, 0, 4, 9))  # so that a flip shows
        image.save(folder / "train" / "dog" / "1.png")
    inspected(folder, sheet=tmp_path, augment=[{"horizontal_flip": {"p": 1.0}}])
    with Image.open(tmp_path / "inspect.png") as sheet:
        pixels = np.asarray(sheet)
    # Two rows of four pairs, each image 2×2 in a white frame of 2.
    assert pixels.shape == (2 * 6, 8 * 6, 3)
    cells = pixels.reshape(2, 6, 8, 6, 3).swapaxes(1, 2)[:, :, 2:4, 2:4, 0]
    assert cells[0, :6].tolist() == [[[value] * 2] * 2 for value in (0, 0, 51, 51, 102, 102)]
    assert cells[1, 2:4].tolist() == [[[204] * 2] * 2] * 2
    raw, flipped = cells[1, :2]
    assert raw[0, 0] > raw[0, 1]
    assert flipped.tolist() == raw[:, ::-1].tolist()
    assert (cells[0, 6:] == 255).all()  # three cats, and nothing after them
    assert (cells[1, 4:] == 255).all()


@pytest.mark.parametrize("given", ["vertical_flip", "[vertical_flip]"])
@pytest.mark.parametrize("in_yaml", [True, False])
def test_an_augmentation_is_given_by_name_or_in_a_list(
    given: str, in_yaml: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("overlay.yaml").write_text(f"data: {{init_args: {{augment: {given}}}}}")
    options = ["--config=overlay.yaml"] if in_yaml else ["--data.augment", given]
    train([f"--config={ROOT / 'configs' / 'digits_cnn.yaml'}", *options, "--inspect"])
    with Image.open("runs/digits_cnn/inspect.png") as sheet:
        cells = np.asarray(sheet).reshape(10, 12, 8, 12, 3).swapaxes(1, 2)[:, :, 2:10, 2:10]
    raw, augmented = cells[:, ::2].reshape(-1, 8, 8, 3), cells[:, 1::2].reshape(-1, 8, 8, 3)
    flipped = [np.array_equal(after, before[::-1]) for before, after in zip(raw, augmented, strict=True)]
    unchanged = [np.array_equal(after, before) for before, after in zip(raw, augmented, strict=True)]
    assert all(a or b for a, b in zip(flipped, unchanged, strict=True))
    assert 5 < sum(flipped) < 35  # of 40, with probability 0.5


def test_the_constants_are_those_that_training_uses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LITLENS_CACHE", str(tmp_path / "cache"))
    network = {"class_path": "TransferNetwork", "init_args": {"weights": "DEFAULT"}}
    config = {
        "data": "DigitsDataModule",
        "model": {"class_path": "TransferClassifier", "init_args": {"network": network}},
    }
    Path("gray.yaml").write_text(yaml.safe_dump(config))
    train(["--config", "gray.yaml", "--inspect"])
    printed = capsys.readouterr().out
    # ImageNet's means and deviations, averaged for gray images: (0.485 + 0.456 + 0.406) / 3 and so on.
    assert "mean      0.4490\nstd       0.2260" in printed


def rows(classifier: ImageClassifier) -> list[list[str]]:
    console = Console(width=120)
    with console.capture() as text:
        console.print(layer_table(classifier))
    return [line.split() for line in text.get().splitlines()[1:]]


def classifier(network: nn.Module, classes: int) -> ImageClassifier:
    return ImageClassifier(network, [str(number) for number in range(classes)])


def test_a_pretrained_network_names_every_layer_and_whether_it_trains() -> None:
    with torch.device("meta"):
        vgg = TransferNetwork(
            num_classes=4, image_size=(150, 150), backbone="vgg16", head=[4096, 2048, 1024], pool="none"
        )
    model = TransferClassifier(
        vgg, list("abcd"), strategy="partial", train_from="block5_conv1", unfreeze_epoch=20, channels_last=False
    )
    table = rows(model)
    assert len(table) == 15
    assert table[9] == ["features.21", "(block4_conv3)", "Conv2d", "2,359,808", "no"]
    assert table[10] == ["features.24", "(block5_conv1)", "Conv2d", "2,359,808", "yes,", "from", "epoch", "20"]
    assert table[13] == ["head", "Sequential", "44,051,460", "yes"]
    # 14,714,688 of the base, without the three layers of block 5 that train later.
    assert table[14] == ["58,766,148", f"{44_051_460 + 3 * 2_359_808:,}"]


def test_a_small_network_shows_its_layers() -> None:
    table = rows(classifier(MnistCNN(num_classes=10, in_channels=1, image_size=(28, 28)), 10))
    assert [row[1] for row in table[:-1]] == ["Conv2d", "Conv2d", "BatchNorm2d"] * 2 + ["Linear"]
    assert table[0] == ["features.0", "Conv2d", "320", "yes"]
    assert table[-1] == ["513,930", "513,930"]


@pytest.mark.parametrize(
    ("network", "names", "parameters"),
    [
        (
            BottleneckCNN(num_classes=52, in_channels=1, image_size=(90, 90)),
            [*(f"features.{stage}" for stage in range(5)), "head.1", "head.2", "head.5"],
            "2,636,148",
        ),
        (CatDogCNN(num_classes=2, in_channels=3, image_size=(64, 64)), ["features", "head"], "14,983,106"),
    ],
    ids=["five stages", "52 layers in a row"],
)
def test_a_deep_network_shows_its_parts(network: nn.Module, names: list[str], parameters: str) -> None:
    table = rows(classifier(network, 2))
    assert [row[0] for row in table[:-1]] == names
    assert table[-1] == [parameters, parameters]


def test_frozen_layers_are_shown_and_counted() -> None:
    network = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    network[0].requires_grad_(False)
    assert rows(classifier(network, 2)) == [["0", "Linear", "15", "no"], ["1", "Linear", "8", "yes"], ["23", "8"]]
