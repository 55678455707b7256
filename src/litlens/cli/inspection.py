"""What `--inspect` does: look at the data before anything is trained on them."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text

from litlens.data.datasets.file_images import FileImages
from litlens.data.duplicates import shared_between_splits
from litlens.data.module import SPLITS, ImageDataModule
from litlens.data.preprocessing import Pixels

_SHOWN = 4  # samples of each class on the sheet, each raw and augmented
_NAMED = 10  # files or pairs that are named before the rest is only counted


def inspect(data: ImageDataModule, *, folder: Path, console: Console) -> None:
    """Print sizes, statistics, counts, left-out files and images in two splits, and write a sheet of samples."""
    data.prepare_data()
    data.setup()
    prepared = data.preprocessing
    height, width = prepared.resize.size
    console.print(f"images  {height}×{width}, {prepared.channels} channel(s), {prepared.resize.mode}")
    if len(sizes := _original_sizes(data)):
        console.print(f"files     {_range(sizes)}")
    console.print(f"mean      {_numbers(prepared.normalize.mean)}\nstd       {_numbers(prepared.normalize.std)}")
    console.print(_counts(data), soft_wrap=False)
    _list("left out", data.left_out, console=console)
    _list(
        "duplicates across splits",
        [f"{first} = {second}" for first, second in shared_between_splits(data)],
        console=console,
    )
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sample_sheet(data)).save(folder / "inspect.png")
    console.print(f"samples   {folder / 'inspect.png'}: a row a class, raw and beside it augmented")


def sample_sheet(data: ImageDataModule, *, shown: int = _SHOWN) -> Pixels:
    """The first training samples of each class, a row each, raw and augmented side by side: uint8 (H, W, 3)."""
    split = data.samples("train")
    rows = []
    for label in range(data.num_classes):
        pair = []
        for index in np.flatnonzero(split.labels == label)[:shown]:
            pair += [data.image("train", int(index)), data.augmented(int(index), epoch=0)]
        cells = [_framed(pixels) for pixels in pair]
        blank = np.full_like(_framed(data.image("train", 0)), 255)
        rows.append(np.concatenate(cells + [blank] * (2 * shown - len(cells)), axis=1))
    return np.concatenate(rows)


def _framed(pixels: Pixels) -> Pixels:
    colored = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    return np.pad(colored, ((2, 2), (2, 2), (0, 0)), constant_values=255)


def _counts(data: ImageDataModule) -> Table:
    table = Table("class", *SPLITS, box=None)
    counts = [np.bincount(data.samples(split).labels, minlength=data.num_classes) for split in SPLITS]
    for label, name in enumerate(data.class_names):
        table.add_row(Text(_printable(name)), *(f"{count[label]:,}" for count in counts))
    table.add_row("all", *(f"{count.sum():,}" for count in counts), style="bold")
    return table


def _list(title: str, lines: list[str], *, console: Console) -> None:
    console.print(f"{title}: {len(lines):,}")
    for line in lines[:_NAMED]:
        console.print(f"  {_printable(line)}")
    if len(lines) > _NAMED:
        console.print(f"  and {len(lines) - _NAMED:,} more")


def _original_sizes(data: ImageDataModule) -> NDArray[np.int64]:
    """Heights and widths of the files of all splits, in order of area: (N, 2); none for images in memory."""
    splits = [data.samples(split) for split in SPLITS]
    sizes = [split.images.sizes(split.rows) for split in splits if isinstance(split.images, FileImages)]
    joined = np.concatenate([np.empty((0, 2), np.int64), *sizes])
    return joined[np.lexsort((joined[:, 0], joined.prod(axis=1)))]


def _range(sizes: NDArray[np.int64]) -> str:
    smallest, median, largest = (f"{height}×{width}" for height, width in sizes[[0, (len(sizes) - 1) // 2, -1]])
    return f"{smallest} to {largest}, median {median} (by area)" if (sizes != sizes[0]).any() else f"all {smallest}"


def _printable(name: str) -> str:
    # Names of files and folders need not be UTF-8, and a terminal takes nothing else.
    return os.fsencode(name).decode(errors="replace")


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)
