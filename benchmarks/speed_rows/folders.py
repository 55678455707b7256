"""A folder of JPEGs at 224×224, augmented: ours and ImageFolder with the same albumentations."""

import argparse
import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from on_gpu.timing import now
from PIL import Image
from speed_rows.row import Row, row
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

import litlens

BATCH, SIDE, WORKERS = 64, 224, 2
# Ours, and the same as classes of albumentations: a warp that is not a crop begins with evaluation's resize.
CROPS: list[Any] = [{"crop": {"range": [0.5, 1.0]}}, "horizontal_flip"]
WARPS: list[Any] = [{"rotation": 10}, {"zoom": [0.8, 1.2]}, "horizontal_flip"]


def jpegs(options: argparse.Namespace) -> list[Row]:
    """Random crop and flip: the first epoch, in which each cache is empty, and the second."""
    return _rows(options, CROPS, "random crop and flip", reach={"the first epoch": 1.2, "the second epoch": 3})


def decoded(options: argparse.Namespace) -> list[Row]:
    """Rotation, zoom and flip from the decoded cache."""
    return _rows(options, WARPS, "rotation, zoom and flip", reach={"an epoch from the decoded cache": 3})


def _rows(options: argparse.Namespace, steps: list[Any], name: str, *, reach: dict[str, float]) -> list[Row]:
    """Whole epochs, the making of the data set included in the first; ours with the better number of workers."""
    repeats, numbers = (1, [0]) if options.quick else (3, [0, 1, WORKERS])
    ours: dict[int, list[list[float]]] = {number: [] for number in numbers}
    theirs: list[list[float]] = []
    before = os.environ.get("LITLENS_CACHE")
    try:
        for _ in range(repeats):
            for workers in numbers:
                with tempfile.TemporaryDirectory() as folder:
                    os.environ["LITLENS_CACHE"] = f"{folder}/cache"
                    _link(options.data / "catdog_2k", Path(folder) / "images", most=40 if options.quick else 1000)
                    ours[workers].append(_epochs(_ours(Path(folder) / "images", steps, workers)))
                    if workers == numbers[-1]:
                        theirs.append(_epochs(_theirs(Path(folder) / "images", steps, workers)))
    finally:
        os.environ.pop("LITLENS_CACHE")
        if before is not None:
            os.environ["LITLENS_CACHE"] = before
    rows = []
    for (epoch, least), place in zip(reach.items(), (0, 1) if len(reach) > 1 else (1,), strict=True):
        best = min(ours, key=lambda workers, place=place: sum(turn[place] for turn in ours[workers]))  # type: ignore[misc]
        what = f"{epoch} of 2,000 JPEGs, 224×224, {name}, {best} workers, against ImageFolder with albumentations, 2"
        rows.append(row(what, [turn[place] for turn in ours[best]], [turn[place] for turn in theirs], at_least=least))
    return rows


def _link(source: Path, folder: Path, *, most: int) -> None:
    """`folder/SPLIT/CLASS`: nearly all of a flat folder of classes is for training."""
    for kind in sorted(source.iterdir()):
        for number, image in enumerate(sorted(kind.iterdir())[:most]):
            place = folder / ("val" if number < 8 else "test" if number < 16 else "train") / kind.name
            place.mkdir(parents=True, exist_ok=True)
            (place / image.name).symlink_to(image)


def _epochs(loader: Iterator[Any]) -> list[float]:
    """The seconds of two epochs, each a request to `loader`, which is closed."""
    seconds = []
    for _ in range(2):
        start = now()
        next(loader)
        seconds.append(now() - start)
    del loader
    gc.collect()  # which ends the workers
    return seconds


def _ours(folder: Path, steps: list[Any], workers: int) -> Iterator[None]:
    data = litlens.FolderDataModule(
        folder, image_size=SIDE, batch_size=BATCH, augment=steps, num_workers=workers, cache="on", seed=0
    )
    data.setup("fit")
    yield from _iterated(data.train_dataloader())


def _theirs(folder: Path, steps: list[Any], workers: int) -> Iterator[None]:
    images = ImageFolder(str(folder / "train"), transform=_Albumentations(crops=steps is CROPS))
    yield from _iterated(
        DataLoader(images, BATCH, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=bool(workers))
    )


def _iterated(loader: Any) -> Iterator[None]:
    while True:
        for _ in loader:
            pass
        yield


class _Albumentations:
    """What a person writes around albumentations for ImageFolder; normalized, as ours is."""

    def __init__(self, *, crops: bool) -> None:
        import albumentations
        from albumentations.pytorch import ToTensorV2

        first = (
            [albumentations.RandomResizedCrop((SIDE, SIDE), scale=(0.5, 1.0), area_for_downscale="image")]
            if crops
            else [
                albumentations.SmallestMaxSize(SIDE),
                albumentations.CenterCrop(SIDE, SIDE),
                albumentations.Affine(rotate=(-10, 10), scale=(0.8, 1.2)),
            ]
        )
        self._steps = albumentations.Compose(
            [*first, albumentations.HorizontalFlip(p=0.5), albumentations.Normalize(), ToTensorV2()]
        )

    def __call__(self, image: Image.Image) -> Tensor:
        result: Tensor = self._steps(image=np.asarray(image))["image"]
        return result
