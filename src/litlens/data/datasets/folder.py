"""The data module of images in folders, one a class, or listed in a CSV: new data of that kind need no code."""

import hashlib
import logging
import shutil
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from litlens.data.assignment import SplitAssignment
from litlens.data.cache import cache_folder, cache_limit, digest, file_state
from litlens.data.datasets.download import extract, fetch
from litlens.data.datasets.file_images import FileImages, size_for_crops
from litlens.data.datasets.folder_listing import Listing, class_folders, csv_classes, list_csv, list_folder
from litlens.data.datasets.stratified_split import stratified_split
from litlens.data.decode import narrow_range
from litlens.data.loader import TrainingLoader
from litlens.data.module import SPLITS, ImageDataModule
from litlens.data.preprocessing import Resize, ResizeMode
from litlens.data.split import Split
from litlens.errors import UserError, listed, nearest
from litlens.files import user_path

Cache = Literal["auto", "on", "off"]
# Bytes of decoded images above which `cache: auto` decodes files each time: about 130,000 images of 224×224.
_CACHED_AT_MOST = 20e9
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Archive:
    """An archive to download: its address and checksum, the folder of the data in it, and their classes."""

    url: str
    checksum: str | None
    folder: str
    class_names: tuple[str, ...]


class FolderDataModule(ImageDataModule):
    """Images in `folder/CLASS/*` or `folder/{train,val,test}/CLASS/*`, or listed in a CSV.

    Files are decoded once, and kept in a cache at the network's size (docs/cache.md); a file that changes is decoded
    again. The format of a file follows from its content. A file that is not a complete image is left out of training
    and named; in val and test it is an error.

    Missing splits are created, stratified and seeded: all three from one by `fractions`; val from train
    by its fraction of the two (one third); test from train by its fraction of all (one tenth).

    Args:
        folder: One tree of classes; with `csv`, what the files in it are relative to. Folders called train, training,
            val, valid, validation, test or testing, also followed by set or _set and in any case, are splits.
        image_size: Height and width of the images for the network; one number for both. `auto` is 224, or what the
            command chooses by the number of images.
        batch_size: As for `ImageDataModule`; `auto` is 64, or what the command chooses by the number of images.
        channels: 1 for gray, 3 for color.
        resize_mode: What becomes of another aspect ratio: `crop` the center, `squash` the image, or `pad` with black.
        fractions: Sizes of train, val and test in proportion to each other.
        csv: A table with columns file and label, optionally split (train, val or test) and group (which must
            not be divided between splits).
        max_bad_files: The fraction of the training files that may be left out; above it, the run is refused.
        splits: The folder of each split where it has another name, as in `{train: part1, test: part2}`; with `{}`,
            every folder is a class, one called `train`, too.
        class_names: The classes in the order of the network's outputs; by default those of the data, sorted. With it,
            data to evaluate on need not have a training split, nor images of every class.
        value_range: The values of 16-bit or floating-point images that become 0 and 255, such as `[0, 4095]` for
            12 bits; by default 0 and 65,535. Other images are read as they are.
        cache: `on` keeps decoded images in the cache. `off` decodes files whenever they are needed, best with
            `num_workers`; a file that is not a complete image then stops the run. `auto` is `on` for up to 20 GB of
            decoded images, if they take at most half of the free disk. Training sees the same images in each case.
        **kwargs: As for `ImageDataModule`.
    """

    # What `folder` is downloaded from if it does not exist, for data sets that have an address.
    archive: ClassVar[Archive | None] = None

    def __init__(
        self,
        folder: str | Path | int,
        *,
        image_size: int | tuple[int, int] | Literal["auto"] = 224,
        batch_size: int | Literal["auto"] = 64,
        channels: Literal[1, 3] = 3,
        resize_mode: ResizeMode = "crop",
        fractions: tuple[float, float, float] = (0.6, 0.3, 0.1),
        csv: str | Path | int | None = None,
        max_bad_files: float = 0.01,
        splits: dict[str, str] | None = None,
        class_names: list[str] | None = None,
        value_range: tuple[float, float] | None = None,
        cache: Cache = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(batch_size=64 if batch_size == "auto" else batch_size, **kwargs)
        self.folder = user_path(folder)
        self.csv = None if csv is None else user_path(csv)
        image_size = 224 if image_size == "auto" else image_size
        self.image_size = (image_size, image_size) if isinstance(image_size, int) else (image_size[0], image_size[1])
        self.in_channels = channels
        self.resize_mode = resize_mode
        self.fractions = fractions
        self.max_bad_files = max_bad_files
        self.splits = splits
        self.value_range = value_range
        self.cache = cache
        if cache not in get_args(Cache):
            raise UserError(f"data.cache: '{cache}' is not one of {', '.join(get_args(Cache))}")
        if value_range is not None and value_range[0] >= value_range[1]:
            raise UserError(f"data.value_range: {list(value_range)} must be the lowest value, then the highest")
        if min(self.image_size) < 1:
            raise UserError(f"data.image_size: {image_size} is less than 1")
        if len(fractions) != 3 or min(fractions) <= 0:
            raise UserError(f"data.fractions: {list(fractions)} must be three positive numbers")
        if class_names is not None and len(set(class_names)) < len(class_names):
            raise UserError(f"data.class_names: {listed(class_names)}: a class is given twice; remove one")
        found = list(self.archive.class_names) if self.archive and self._is_missing() else self._found_classes()
        # To evaluate, data need not have images of every class that is given.
        self._any_classes = class_names is not None
        self.class_names = found if class_names is None else list(class_names)
        self._refuse_unknown_classes(found)
        if len(self.class_names) < 2:
            raise UserError(f"data.folder: {self._source} has one class only, {self.class_names[0]}")

    @property
    def number_of_files(self) -> int:
        """How many files are listed."""
        return len(self._listing.paths)

    def fingerprint(self) -> dict[str, str | int]:
        """As for `ImageDataModule`, from the hashes that were taken when the files were decoded."""
        if not hasattr(self, "_files"):
            self._load_once()
        files, size, stat, content = self._images.fingerprint()
        if self.csv:
            table = self.csv.read_bytes()
            files, size, stat = files + 1, size + len(table), digest([stat, file_state(self.csv)])
            content = digest([content, hashlib.blake2b(table).hexdigest()])
        return {"files": files, "bytes": size, "stat": stat, "content": content}

    def load(self) -> dict[str, Split]:
        """Decode the files that the cache does not have, leave out bad ones, and create missing splits."""
        if self.archive and self._is_missing():
            archive = self.folder.parent / self.archive.url.rpartition("/")[2]
            fetch([self.archive.url], archive, checksum=self.archive.checksum)
            extract(archive, self.folder, inner=self.archive.folder)
        kept = self._assignment
        listing = self._listing if kept is None else self._listing_of(kept)
        self._crops, shorter_side = size_for_crops(self.augment or [], self.image_size)
        images = self._images = FileImages(
            source=self._source,
            folder=self.folder,
            paths=listing.paths,
            names=listing.names,
            channels=self.in_channels,
            resize=Resize(self.image_size, self.resize_mode),
            shorter_side=shorter_side,
            value_range=self.value_range,
        )
        self._bounded = shorter_side is not None
        of_split = np.full(len(listing.paths), "train", object) if listing.splits is None else listing.splits
        self._cached = self._fits(images)
        if self._cached:  # where training crops, it does not need the images that evaluation sees
            images.cache(np.flatnonzero((of_split == "train") & self._bounded), for_crops=True)
            images.cache(np.flatnonzero((of_split != "train") | (not self._bounded)))
        else:
            images.find_missing()
        if self.value_range is None and (better := narrow_range(images.values)):
            _log.warning("data.value_range: %s: %s", self._source, better)
        if kept is None:
            rows = self._rows_of_splits(listing, of_split, self._without_bad_files(listing, of_split, images.bad))
            self._check_classes({split: listing.labels[members] for split, members in rows.items()})
        else:  # the base reports what is not a complete image any more
            good = ~np.isin(np.arange(len(of_split)), list(images.bad))
            rows = {split: np.flatnonzero((of_split == split) & good) for split in SPLITS}
        if listing.groups is not None:
            self._report_divided_groups(listing.groups, rows)
        numbers = np.arange(len(listing.paths))
        self._files = Split(images, numbers, labels=listing.labels, names=listing.names, groups=listing.groups)
        return {split: self._files.at(members) for split, members in rows.items()}

    def samples(self, split: str) -> Split:
        """The labels, names and groups of `train`, `val`, `test`, or of `all` three together; after `setup`."""
        if split != "all":
            return super().samples(split)
        rows = [super(FolderDataModule, self).samples(name).rows for name in SPLITS]
        return self._files.at(np.concatenate(rows))

    @property
    def given_splits(self) -> list[str]:
        """The splits that the folder or the CSV defines; empty if all of them are created."""
        given = self._listing.splits
        return [] if given is None else [split for split in SPLITS if split in given]

    def train_dataloader(self) -> TrainingLoader:
        """As in `ImageDataModule`, after a check that there are training images of every class."""
        self._check_training({split: self.samples(split).labels for split in SPLITS})
        return super().train_dataloader()

    def _load_once(self) -> None:
        super()._load_once()
        if self._cached:  # which files these are is known by now
            self._images.cache(np.concatenate([self.samples(split).rows for split in ("val", "test")]))

    def _fits(self, images: FileImages) -> bool:
        """Whether decoded images are kept in the cache; says so where they are not, though nobody asked for it."""
        if self.cache != "auto":
            return self.cache == "on"
        height, width = self.image_size
        if images.shorter_side is not None:
            height, width = images.shorter_side, images.shorter_side * 4 // 3
        size = len(images.paths) * height * width * self.in_channels
        free = shutil.disk_usage(
            next(p for p in (cache_folder(), *cache_folder().absolute().parents) if p.exists())
        ).free
        if size <= min(_CACHED_AT_MOST, cache_limit()) and size * images.part_missing <= free / 2:
            return True
        _log.warning(
            f"data.cache: {len(images.paths):,} images would take up to {size / 1e9:,.0f} GB: files are decoded when"
            " they are needed; data.cache=on keeps the images"
        )
        return False

    def _check_classes(self, labels: dict[str, NDArray[np.int64]]) -> None:
        """Report classes without images in data to evaluate on; other data need training images of every class."""
        if not self._any_classes:
            self._check_training(labels)
            return
        present = np.concatenate(list(labels.values()))
        if absent := [name for label, name in enumerate(self.class_names) if label not in present]:
            _log.warning("%s has no image of %d classes: %s", self._source, len(absent), listed(absent))

    def _check_training(self, labels: dict[str, NDArray[np.int64]]) -> None:
        if "train" not in self.given_splits and self.given_splits:
            raise UserError(
                f"data.folder: {self._source} has {' and '.join(self.given_splits)} but no train: add it; "
                "to evaluate on these splits, give data.class_names"
            )
        for label, name in enumerate(self.class_names):
            if label not in labels["train"]:
                raise UserError(
                    f"data.folder: {self._source}: class {name} has no training image; add some or remove it"
                )

    @property
    def _source(self) -> Path:
        """The CSV or the folder that lists the files."""
        return self.csv or self.folder

    def _is_missing(self) -> bool:
        return self.csv is None and not self.folder.exists()

    def _found_classes(self) -> list[str]:
        return csv_classes(self.csv) if self.csv else class_folders(self.folder, self.splits)

    def _refuse_unknown_classes(self, found: list[str]) -> None:
        if unknown := [name for name in found if name not in self.class_names]:
            raise UserError(
                f"data.class_names: {self._source} has the class {unknown[0]}, which is not among "
                f"{listed(self.class_names)}{nearest(unknown[0], self.class_names)}"
            )

    @cached_property
    def _listing(self) -> Listing:
        if self.csv:
            return list_csv(self.csv, class_names=self.class_names)
        self._refuse_unknown_classes(self._found_classes())  # the folder was downloaded, or has changed
        return list_folder(self.folder, class_names=self.class_names, splits=self.splits)

    def _listing_of(self, kept: SplitAssignment) -> Listing:
        """The files of an earlier run: no other is even decoded."""
        split_of = kept.split_of()
        self.not_in_run = [name for name in self._listing.names if name not in split_of]
        listing = self._listing.only(split_of)
        if not listing.paths:
            kept.refuse(dict.fromkeys(split_of, "missing"))
        return listing

    def _without_bad_files(
        self, listing: Listing, of_split: NDArray[np.object_], reasons: dict[int, str]
    ) -> NDArray[np.int64]:
        """The rows of the good files; bad ones are reported, or are an error."""
        lines = {row: f"{listing.names[row]} ({reasons[row]})" for row in sorted(reasons)}
        if len(reasons) == len(listing.names):
            raise UserError(f"data.folder: {self.folder} has no readable image: {listed(lines.values())}")
        if held_out := [line for row, line in lines.items() if of_split[row] != "train"]:
            raise UserError(
                f"data.folder: {self.folder}: not a complete image in val or test: {listed(held_out)}; "
                "fix or remove it: files of val and test are never skipped"
            )
        training = np.count_nonzero(of_split == "train")
        if len(reasons) > self.max_bad_files * training:
            raise UserError(
                f"data.max_bad_files: {len(reasons)} of {training} files in train are not complete images, over "
                f"{self.max_bad_files:.2%}: {listed(lines.values())}; remove them, or raise max_bad_files"
            )
        self.left_out = list(lines.values())
        if reasons:
            left_out = "; ".join(self.left_out)
            _log.warning("%s: left out %d of %d: %s", self.folder, len(reasons), training, left_out)
        return np.setdiff1d(np.arange(len(listing.names)), list(reasons)).astype(np.int64)

    def _rows_of_splits(
        self, listing: Listing, of_split: NDArray[np.object_], good: NDArray[np.int64]
    ) -> dict[str, NDArray[np.int64]]:
        """The rows of each split: the given ones, and the missing ones taken from train."""
        rows = {split: good[of_split[good] == split] for split in SPLITS}
        missing = [split for split in SPLITS if split not in of_split]
        if not missing or "train" in missing:
            return rows
        sizes = dict(zip(SPLITS, self.fractions, strict=True))
        # Where val is given, train has its share of the images that test is taken from.
        kept = sizes["train"] + (0 if "val" in missing else sizes["val"])
        pool = rows["train"]
        groups = None if listing.groups is None else [listing.groups[row] for row in pool]
        shares = [kept, *(sizes[split] for split in missing)]
        parts = stratified_split(listing.labels[pool], shares, seed=self.seed, groups=groups)
        rows |= {split: pool[part] for split, part in zip(["train", *missing], parts, strict=True)}
        lacking = {split: np.setdiff1d(listing.labels[pool], listing.labels[rows[split]]) for split in missing}
        few = [
            f"{split} has none of {listed(self.class_names[label] for label in labels)}"
            for split, labels in lacking.items()
            if len(labels)
        ]
        if few and not self._any_classes:
            _log.warning("%s: few images: %s; add some", self._source, ", and ".join(few))
        return rows

    def _report_divided_groups(self, groups: list[str], rows: dict[str, NDArray[np.int64]]) -> None:
        """Warn about groups in two of the given splits: splits are used as given, but the score is then too high."""
        homes = [{groups[row] for row in members} for members in rows.values()]
        divided = sorted(set().union(*(a & b for a, b in combinations(homes, 2))))
        if divided:
            _log.warning("%s: %d groups are in two splits: %s", self.csv, len(divided), listed(divided))
