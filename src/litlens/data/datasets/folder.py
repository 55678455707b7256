"""A folder of images, one subfolder a class, as a data module: new data of that kind need no code."""

import logging
import os
import shutil
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from litlens.data.datasets.download import extract, fetch
from litlens.data.datasets.file_images import decode_files
from litlens.data.datasets.folder_listing import Listing, class_folders, csv_classes, list_csv, list_folder
from litlens.data.datasets.splits import stratified_split
from litlens.data.module import SPLITS, ImageDataModule
from litlens.data.preprocessing import ResizeMode
from litlens.data.split import Split
from litlens.errors import UserError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Archive:
    """Where a data set can be fetched: the archive, the folder in it, and the classes it will have."""

    url: str
    folder: str
    class_names: tuple[str, ...]


class FolderDataModule(ImageDataModule):
    """Images in `folder/CLASS/*` or `folder/{train,val,test}/CLASS/*`, or listed in a CSV.

    Files are decoded once, to the network's size, and kept in a cache that is dropped when they change. What
    a file is follows from its content. One that is no whole image is left out of training and named; in val
    and test it is an error.

    Splits that are missing are cut stratified and seeded: all three from one by `fractions`; val from train
    by its share of the two (one third); test from train by its share of all (one tenth).

    Args:
        folder: One tree of classes; with `csv`, what the files in it are relative to.
        image_size: Height and width of the images for the network; one number for both.
        channels: 1 for gray, 3 for color.
        resize_mode: What becomes of another aspect ratio: `crop` the center, `squash` the whole, or `pad` with black.
        fractions: Sizes of train, val and test in proportion to each other.
        csv: A table with columns file and label, optionally split (train, val or test) and group (what must
            not stand in two splits).
        max_bad_files: The share of the training files that may be left out before the run is refused.
        **kwargs: As for `ImageDataModule`.
    """

    # Where the folder is fetched from when it is not there, for data sets that can be.
    archive: ClassVar[Archive | None] = None

    def __init__(
        self,
        folder: str | Path,
        *,
        image_size: int | tuple[int, int] = 224,
        channels: Literal[1, 3] = 3,
        resize_mode: ResizeMode = "crop",
        fractions: tuple[float, float, float] = (0.6, 0.3, 0.1),
        csv: str | Path | None = None,
        max_bad_files: float = 0.01,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.folder = Path(folder)
        self.csv = None if csv is None else Path(csv)
        self.image_size = (image_size, image_size) if isinstance(image_size, int) else (image_size[0], image_size[1])
        self.in_channels = channels
        self.resize_mode = resize_mode
        self.fractions = fractions
        self.max_bad_files = max_bad_files
        if min(self.image_size) < 1:
            raise UserError(f"data.image_size: {image_size} is less than 1")
        if len(fractions) != 3 or min(fractions) <= 0:
            raise UserError(f"data.fractions: {list(fractions)} must be three positive numbers")
        if self.archive is not None and self.csv is None and not self.folder.exists():
            self.class_names = list(self.archive.class_names)
        else:
            self.class_names = csv_classes(self.csv) if self.csv else class_folders(self.folder)
        if len(self.class_names) < 2:
            raise UserError(f"data.folder: {self.csv or self.folder} has one class only, {self.class_names[0]}")
        self._listing: Listing | None = None

    def source_files(self) -> list[Path]:
        """Every file that is listed and can be read, and the CSV."""
        listed = [file for file in self._listed().files if file.is_file() and os.access(file, os.R_OK)]
        return [*listed, self.csv] if self.csv else listed

    def source_folder(self) -> Path:
        """The tree of classes, wherever a CSV lies."""
        return self.folder

    def load(self) -> dict[str, Split]:
        """Decode what the cache lacks, leave out what cannot be decoded, cut the splits that are missing."""
        if self.archive is not None and self.csv is None and not self.folder.exists():
            _fetch(self.archive, self.folder)
        listing = self._listed()
        images = decode_files(
            listing.files,
            names=listing.names,
            size=self.image_size,
            channels=self.in_channels,
            resize_mode=self.resize_mode,
            owner=self.csv or self.folder,
        )
        good = self._without_bad_files(listing, images.reasons)
        rows = self._cut(listing, good)
        for label, name in enumerate(self.class_names):
            if label not in listing.labels[rows["train"]]:
                raise UserError(f"data.folder: {self.folder}: no training image of class {name} is left")
        for split, members in rows.items():
            if len(members) == 0:
                raise UserError(f"data.folder: {self.folder}: {len(good)} are too few to cut a {split} split from")
        if listing.groups is not None:
            self._tell_of_torn_groups(listing.groups, rows)
        return {
            split: Split(
                images,
                rows=members,
                labels=listing.labels[members],
                names=[listing.names[row] for row in members],
                groups=None if listing.groups is None else [listing.groups[row] for row in members],
            )
            for split, members in rows.items()
        }

    def _listed(self) -> Listing:
        if self._listing is None:
            if self.csv:
                self._listing = list_csv(self.csv, folder=self.folder, class_names=self.class_names)
            else:
                found = class_folders(self.folder)
                if found != self.class_names:
                    raise UserError(
                        f"data.folder: {self.folder} has the classes {', '.join(found)}, "
                        f"not {', '.join(self.class_names)}"
                    )
                self._listing = list_folder(self.folder, class_names=self.class_names)
        return self._listing

    def _without_bad_files(self, listing: Listing, reasons: list[str]) -> NDArray[np.int64]:
        """The rows of the good files; tells of the others, or refuses."""
        bad = [row for row, reason in enumerate(reasons) if reason]
        lines = {row: f"{listing.names[row]} ({reasons[row]})" for row in bad}
        if len(bad) == len(reasons):
            raise UserError(f"data.folder: {self.folder} holds no image: {_some(list(lines.values()))}")
        of_split = listing.splits or ["train"] * len(reasons)
        held_out = [lines[row] for row in bad if of_split[row] != "train"]
        if held_out:
            raise UserError(
                f"data.folder: {self.folder}: not a whole image in val or test: {_some(held_out)}; "
                "mend or remove it, so that the score says of what it is one"
            )
        training = sum(split == "train" for split in of_split)
        if len(bad) > self.max_bad_files * training:
            raise UserError(
                f"data.max_bad_files: {len(bad)} of {training} files in train are no whole image, over "
                f"{self.max_bad_files:.2%}: {_some(list(lines.values()))}; remove them, or raise it"
            )
        self.left_out = list(lines.values())
        if bad:
            left_out = "; ".join(self.left_out)
            _log.warning("%s: left out %d of %d: %s", self.folder, len(bad), training, left_out)
        return np.setdiff1d(np.arange(len(reasons)), bad).astype(np.int64)

    def _cut(self, listing: Listing, good: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
        """The rows of each split: those that are given, and those that are missing cut from train."""
        of_split = np.array(listing.splits or ["train"] * len(listing.files))
        rows = {split: good[of_split[good] == split] for split in SPLITS}
        missing = [split for split in SPLITS if split not in of_split]
        train, val, test = self.fractions
        if missing == ["val", "test"]:
            shares = [train, val, test]
        elif missing == ["val"]:
            shares = [train, val]
        elif missing == ["test"]:
            shares = [train + val, test]
        else:
            return rows
        pool = rows["train"]
        groups = None if listing.groups is None else [listing.groups[row] for row in pool]
        parts = stratified_split(listing.labels[pool], shares, seed=self.seed, groups=groups)
        return rows | {split: pool[part] for split, part in zip(["train", *missing], parts, strict=True)}

    def _tell_of_torn_groups(self, groups: list[str], rows: dict[str, NDArray[np.int64]]) -> None:
        """Given splits are taken as they are, but a group that stands in two of them flatters the score."""
        homes = [{groups[row] for row in members} for members in rows.values()]
        torn = sorted(set().union(*(a & b for a, b in combinations(homes, 2))))
        if torn:
            _log.warning("%s: %d groups stand in two splits: %s", self.csv, len(torn), _some(torn))


def _fetch(archive: Archive, folder: Path) -> None:
    """Fetch an archive, and bring the folder that is in it to where it belongs."""
    fetched = fetch(archive.url, folder.parent / archive.url.rsplit("/", 1)[-1])
    unpacked = folder.with_name(f".{folder.name}.unpacked")
    shutil.rmtree(unpacked, ignore_errors=True)  # of a run that was killed
    try:
        extract(fetched, unpacked)
        if not (unpacked / archive.folder).is_dir():
            raise UserError(f"{fetched} has no folder {archive.folder}; it is another archive than expected")
        (unpacked / archive.folder).replace(folder)
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def _some(lines: list[str], *, most: int = 5) -> str:
    more = f" and {len(lines) - most} more" if len(lines) > most else ""
    return ", ".join(lines[:most]) + more
