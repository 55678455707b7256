"""What the command shows before it trains: the data (`--inspect`), and the table of layers."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn

from litlens.data.datasets.file_images import FileImages
from litlens.data.duplicates import shared_between_splits
from litlens.data.module import SPLITS, ImageDataModule
from litlens.data.preprocessing import Pixels
from litlens.models.classifier import ImageClassifier
from litlens.models.transfer import TransferClassifier

_SHOWN = 4  # samples of each class on the sheet, each raw and augmented
_NAMED = 10  # lines of a list that are printed; the others are counted
_ROWS = 16  # of a network with more layers, the parts that they are in


def inspect(data: ImageDataModule, *, folder: Path, console: Console) -> None:
    """Print sizes, statistics, counts, unreadable files and duplicates across splits; write a sheet of samples."""
    data.prepare_data()
    data.setup()
    resize, normalize = data.preprocessing.resize, data.preprocessing.normalize
    height, width = resize.size
    console.print(f"images    {height}×{width}, {data.in_channels} channel(s), {resize.mode}")
    if len(sizes := _original_sizes(data)):
        smallest, median, largest = (f"{height}×{width}" for height, width in sizes[[0, (len(sizes) - 1) // 2, -1]])
        varied = (sizes != sizes[0]).any()
        text = f"{smallest} to {largest}, median {median} (by area)" if varied else f"all {smallest}"
        console.print(f"files     {text}")
    for name, values in (("mean", normalize.mean), ("std", normalize.std)):
        console.print(f"{name:8}  {', '.join(f'{value:.4f}' for value in values)}")
    counts = [np.bincount(data.samples(split).labels, minlength=data.num_classes) for split in SPLITS]
    table = Table("class", *SPLITS, box=None)
    for label, name in enumerate(data.class_names):
        table.add_row(Text(_printable(name)), *(f"{count[label]:,}" for count in counts))
    table.add_row("all", *(f"{count.sum():,}" for count in counts), style="bold")
    console.print(table, soft_wrap=False)
    print_list("left out", data.left_out, console=console)
    duplicates = [f"{first} = {second}" for first, second in shared_between_splits(data)]
    print_list("duplicates across splits", duplicates, console=console)
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sample_sheet(data)).save(folder / "inspect.png")
    console.print(f"samples   {folder / 'inspect.png'}: one row per class, each image raw and augmented")


def sample_sheet(data: ImageDataModule) -> Pixels:
    """The first training samples of each class, a row each, raw and augmented side by side: uint8 (H, W, 3)."""
    labels = data.samples("train").labels
    blank = np.full_like(_framed(data.image("train", 0)), 255)
    rows = []
    for label in range(data.num_classes):
        cells = [blank] * (2 * _SHOWN)
        for place, index in enumerate(np.flatnonzero(labels == label)[:_SHOWN].tolist()):
            cells[2 * place] = _framed(data.image("train", index))
            cells[2 * place + 1] = _framed(data.augmented(index, epoch=0))
        rows.append(np.concatenate(cells, axis=1))
    return np.concatenate(rows)


def print_list(title: str, lines: Sequence[str], *, console: Console) -> None:
    """Print how many lines there are, and the first ten of them."""
    console.print(f"{title}: {len(lines):,}")
    for line in lines[:_NAMED]:
        console.print(f"  {_printable(line)}")
    if len(lines) > _NAMED:
        console.print(f"  and {len(lines) - _NAMED:,} more")


def layer_table(classifier: ImageClassifier) -> Table:
    """Every layer that has parameters, or the part of a deep network that it is in, how many, and whether they train.

    The last row has the sums; under `trains`, how many of the parameters do at any time. Lightning's own summary
    counts FLOPs of a network that has not run (0 of each layer), rounds the parameters, and lists the metrics as well.
    """
    table = Table("layer", "type", "parameters", "trains", box=None)
    frozen = 0
    rows = _backbone_layers(classifier) if isinstance(classifier, TransferClassifier) else _parts(classifier.network)
    for name, layer, trains in rows:
        if size := _size(layer):
            table.add_row(name, type(layer).__name__, f"{size:,}", trains)
            frozen += size if trains == "no" else 0
    total = _size(classifier.network)
    table.add_row("", "", f"{total:,}", f"{total - frozen:,}")
    return table


def _backbone_layers(classifier: TransferClassifier) -> Iterator[tuple[str, nn.Module, str]]:
    network, lowest = classifier.network, classifier.first_trainable_layer(None)
    later = "" if classifier.unfreeze_epoch is None else f", from epoch {classifier.unfreeze_epoch}"
    for number, name in enumerate([*network.layer_names, "head"]):
        alias = network.aliases.get(name)
        trains = "no" if number < lowest else "yes" + (later if name != "head" else "")
        yield f"{name} ({alias})" if alias else name, network.get_submodule(name), trains


def _parts(network: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    parts = {"": network}
    while len(deeper := dict(_one_level_down(parts))) <= _ROWS and deeper != parts:
        parts = deeper
    for name, part in parts.items():
        yield name, part, "yes" if any(parameter.requires_grad for parameter in part.parameters()) else "no"


def _one_level_down(parts: dict[str, nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """The children of each part; a part that has parameters of its own is not divided."""
    for name, part in parts.items():
        inner = [(child, module) for child, module in part.named_children() if _size(module)]
        if not inner or any(True for _ in part.parameters(recurse=False)):
            yield name, part
            continue
        for child, module in inner:
            yield f"{name}.{child}" if name else child, module


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _original_sizes(data: ImageDataModule) -> NDArray[np.int64]:
    """Heights and widths of the files of all splits, in order of area: (N, 2); none for images in memory."""
    splits = [data.samples(split) for split in SPLITS]
    sizes = [split.images.sizes(split.rows) for split in splits if isinstance(split.images, FileImages)]
    joined = np.concatenate([np.empty((0, 2), np.int64), *sizes])
    in_order: NDArray[np.int64] = joined[np.lexsort((joined[:, 0], joined.prod(axis=1)))]
    return in_order


def _framed(pixels: Pixels) -> Pixels:
    colored = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    return np.pad(colored, ((2, 2), (2, 2), (0, 0)), constant_values=255)


def _printable(name: str) -> str:
    # Names of files and folders need not be UTF-8, but the terminal is.
    return os.fsencode(name).decode(errors="replace")
