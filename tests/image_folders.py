"""Folders of small images for tests, and the data module on one."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from litlens.data.datasets.folder import FolderDataModule


def draw(path: Path, *, value: int = 0, size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 100, 0)).save(path)


def fill(folder: Path, counts: dict[str, int]) -> Path:
    """Images 000.png, 001.png, … in each subfolder, each of a color of its own."""
    value = 0
    for name, count in counts.items():
        for number in range(count):
            value += 1
            draw(folder / name / f"{number:03}.png", value=value % 256)
    return folder


def set_up(folder: Path, **options: Any) -> FolderDataModule:
    data = FolderDataModule(folder, image_size=8, **options)
    data.setup()
    return data


def counts(data: FolderDataModule) -> dict[str, list[int]]:
    return {split: np.bincount(data.samples(split).labels).tolist() for split in ("train", "val", "test")}


def experiment(folder: str, *, epochs: int) -> str:
    """A small experiment on a folder of classes, as a config."""
    return f"""\
data:
  class_path: FolderDataModule
  init_args: {{folder: {folder}, image_size: 8, channels: 1}}
model:
  class_path: ImageClassifier
  init_args:
    network: {{class_path: litlens.MLP}}
    optimizer: {{class_path: Adam, init_args: {{lr: 0.01}}}}
early_stopping: null
trainer: {{max_epochs: {epochs}, accelerator: cpu, logger: false}}
"""
