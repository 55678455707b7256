"""Batches of MNIST, normalized: ours, torchvision's, and by indexing a tensor by hand."""

import argparse
import gzip
import shutil
import tempfile
from pathlib import Path

import torch
from speed_rows.row import Row, row, take_turns
from torch.utils.data import DataLoader, Subset
from torchvision import datasets
from torchvision.transforms import Compose, Normalize, ToTensor

import litlens

BATCH = 64


def batches(options: argparse.Namespace) -> list[Row]:
    """An epoch of each, of as many images."""
    data = litlens.MNISTDataModule(options.data, batch_size=BATCH, seed=0)
    data.prepare_data()
    data.setup("fit")
    loader = data.train_dataloader()
    number = 2 * BATCH if options.quick else len(loader) * BATCH
    (mean,), (std,) = data.preprocessing.normalize.mean, data.preprocessing.normalize.std
    with tempfile.TemporaryDirectory() as folder:
        root = unpacked(data.source_files(), Path(folder))
        theirs = datasets.MNIST(root, transform=Compose([ToTensor(), Normalize((mean,), (std,))]))
    workers = 0 if options.quick else 2
    theirs = DataLoader(Subset(theirs, range(number)), batch_size=BATCH, shuffle=True, num_workers=workers)
    split = data.samples("train")
    images = data.preprocessing.normalize(split.images.batch(split.rows)).contiguous()
    labels = torch.from_numpy(split.labels)

    def ours() -> None:
        for _ in loader:
            pass

    def torchvision() -> None:
        for _ in theirs:
            pass

    def by_hand() -> None:
        for indices in torch.randperm(len(images))[:number].split(BATCH):
            _ = images[indices], labels[indices]

    slow = take_turns(ours, torchvision, repeats=1 if options.quick else 3)
    fast = take_turns(ours, by_hand, repeats=1 if options.quick else 15)
    what = f"an epoch of batches of MNIST, normalized, batch {BATCH}, against"
    return [
        row(f"{what} torchvision's MNIST, ToTensor, Normalize and DataLoader, 2 workers", *slow, at_least=68),
        row(f"{what} indexing one normalized tensor by hand", *fast, at_least=0.9),
    ]


def unpacked(files: list[Path], root: Path) -> Path:
    """A folder in torchvision's layout; it reads no archives."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for path in files:
        with (
            (gzip.open if path.suffix == ".gz" else open)(path, "rb") as packed,
            (raw / path.name.removesuffix(".gz")).open("wb") as file,
        ):
            shutil.copyfileobj(packed, file)
    return root
