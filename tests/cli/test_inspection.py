"""What `--inspect` prints and draws of a folder small enough to count by hand."""

import os
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from litlens.cli.inspection import inspect
from litlens.data.sets.folder import FolderDataModule

# Grey value, height and width of each picture.
PICTURES = {
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


def draw(folder: Path, pictures: dict[str, tuple[int, int, int]]) -> Path:
    for name, (value, height, width) in pictures.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (width, height), value).save(folder / name)
    return folder


def inspected(folder: Path, *, sheet: Path, augment: list[str] | None = None) -> list[str]:
    """The lines that are printed, as a UTF-8 terminal gets them."""
    data = FolderDataModule(folder, image_size=2, channels=1, max_bad_files=0.5, augment=augment)
    terminal = TextIOWrapper(BytesIO(), "utf-8")
    inspect(data, folder=sheet, console=Console(file=terminal, width=200))
    terminal.seek(0)
    return [line.rstrip() for line in terminal]


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="their file names are Unicode")
def test_names_that_are_not_utf_8_are_printed(tmp_path: Path) -> None:
    folder = draw(tmp_path / "pets", PICTURES)
    (folder / "train" / "cat" / os.fsdecode(b"\xff.png")).write_text("no picture")
    assert "  train/cat/\ufffd.png (not a picture)" in inspected(folder, sheet=tmp_path)
