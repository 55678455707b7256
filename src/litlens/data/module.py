"""The base of every data module: from the splits that a subclass loads to loaders, statistics and provenance."""

import hashlib
import logging
import math
import multiprocessing
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from lightning.fabric.utilities.data import suggested_max_num_workers
from lightning.pytorch import LightningDataModule
from torch import Tensor

from litlens.constants import NORMALIZATIONS, mean_and_std
from litlens.data.assignment import SplitAssignment
from litlens.data.cache import cached_array, digest, file_state
from litlens.data.features import FeatureDataset, FrozenAt
from litlens.data.loader import BatchDataset, EvaluationLoader, SplitDataset, TrainingLoader, is_running
from litlens.data.preprocessing import Normalize, Pixels, Preprocessing, Resize, ResizeMode
from litlens.data.progress import progress
from litlens.data.sampling import Indices, training_shape
from litlens.data.split import Split
from litlens.errors import UserError

if TYPE_CHECKING:
    from litlens.data.augment import Augmentation

SPLITS = ("train", "val", "test")
Sampling = Literal["shuffled", "balanced"]
_MOST_WORKERS = 16
_MOST_PLAIN = 4  # workers for files that are not augmented, as in validation
_OF_MEMORY = 10  # images are held on a GPU where they take at most this part of its memory
_FEWEST_STEPS = 5  # an epoch of fewer steps is rarely meant
_log = logging.getLogger(__name__)


class ImageDataModule(LightningDataModule, ABC):
    """Images with one label each, in three splits, as batches for any LightningModule or a plain `for` loop.

    A loader yields `(images, labels)`: float32 (B, C, H, W), normalized, and int64 (B,). The order and the
    augmentation follow only from the seed and the epoch (`litlens.data.sampling`).

    A subclass sets `class_names`, `in_channels` and `image_size` on construction, without reading the data, and
    gives `load` and, where it has files, `source_files`.

    Args:
        batch_size: Samples in a batch, on each device; at most the split. Training leaves out the tail of an epoch
            that fills no batch.
        num_workers: Processes that fetch batches; 0 fetches in the training process. `auto`: one less than the cores of
            each GPU, at most 16, or 4 where nothing is augmented; 0 where a CPU trains, for images in memory that are
            not augmented, and where processes are not forked (Windows, macOS).
        on_device: Whether images in memory that are not augmented are held on the GPU that trains, and indexed and
            normalized there; batches are the same. `auto`: where they take at most a tenth of its memory.
        seed: Every split, order and augmentation follows from it. The command sets it to `seed_everything`.
        normalize: A preset (`mnist`, `fashion`, `imagenet`, `imagenet_features`, `half`), `{mean: […], std: […]}` of
            pixels in [0, 1], or `auto`: the constants of the pretrained weights where the command finds some, else of
            the known set, else those of ImageNet for color and those of the training split for gray.
        augment: Augmentations of the training split, in order: one name, or a list of names, each with or without
            options (`litlens.data.augment`).
        sampling: `shuffled`: an epoch has each image once. `balanced`: it has as many images, and each class equally
            often; images of a small class are repeated, and augmented alike within the epoch.
    """

    class_names: list[str]
    in_channels: int
    image_size: tuple[int, int]
    # How another aspect ratio is handled (`Resize.mode`).
    resize_mode: ResizeMode = "crop"
    # The known set (`NORMALIZATIONS`) whose constants `normalize: auto` means here, where there is one.
    preset: str | None = None
    # Which values of images of more than 8 bits are black and white (`litlens.data.decode.read_image`).
    value_range: tuple[float, float] | None = None

    def __init__(
        self,
        *,
        batch_size: int = 64,
        num_workers: int | Literal["auto"] = "auto",
        on_device: bool | Literal["auto"] = "auto",
        seed: int = 0,
        normalize: str | dict[str, list[float]] = "auto",
        augment: list[str | dict[str, Any]] | str | None = None,
        sampling: Sampling = "shuffled",
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise UserError(f"data.batch_size: {batch_size} is less than 1")
        if num_workers != "auto" and num_workers < 0:
            raise UserError(f"data.num_workers: {num_workers} is less than 0")
        if sampling not in get_args(Sampling):
            raise UserError(f"data.sampling: '{sampling}' is not one of {', '.join(get_args(Sampling))}")
        if normalize != "auto":
            mean_and_std(normalize, key="data.normalize", others="auto, ")
        self.batch_size = batch_size
        self.num_workers, self.on_device = num_workers, on_device
        self.seed = seed
        self.normalize = normalize
        self.augment: list[str | dict[str, Any]] | None = [augment] if isinstance(augment, str) else augment
        self.sampling = sampling
        # Names of the files that `load` left out, each with the reason.
        self.left_out: list[str] = []
        # Names of what an earlier run, whose splits are kept, did not have.
        self.not_in_run: list[str] = []
        self._splits: dict[str, Split] = {}
        self._assignment: SplitAssignment | None = None
        self._divide: Callable[[Mapping[str, Split], Sequence[str]], SplitAssignment] | None = None
        self._preprocessing: Preprocessing | None = None
        self._epochs = iter(range(sys.maxsize))  # not itertools.count, which Python 3.14 does not pickle
        self._frozen_at: FrozenAt | None = None
        self._views, self._feature_memory = 1, 0.0
        self._reported: set[str] = set()

    @abstractmethod
    def load(self) -> dict[str, Split]:
        """Read the data and split them into `train`, `val` and `test`; once per process, on the first rank first."""

    def source_files(self) -> list[Path]:
        """The files that the data are read from; none for data that come with a package."""
        return []

    def source_folder(self) -> Path | None:
        """What the files' names in the fingerprint are relative to, so that a copy elsewhere counts as the same data.

        By default, the folder that they have in common.
        """
        try:
            return Path(os.path.commonpath([path.absolute().parent for path in self.source_files()]))
        except ValueError:  # no files, or files on several drives
            return None

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    @property
    def preprocessing(self) -> Preprocessing:
        """How images become what the network takes; after `setup`."""
        if self._preprocessing is None:
            raise RuntimeError("preprocessing is known after setup()")
        return self._preprocessing

    def prepare_data(self) -> None:
        """Download, decode and fill the caches, on the first rank of a machine; the others then find them."""
        self._load_once()

    def setup(self, stage: str | None = None) -> None:
        """Load the splits, the same for every stage; a second call reads nothing."""
        self._load_once()
        if stage in ("fit", None):
            _ = self._augmentation  # so that a mistake is reported before training
        self._frozen_at = None  # of an earlier fit

    def cache_features(self, frozen_at: FrozenAt, *, views: int, memory: float) -> None:
        """Compute the features of training and validation images once, until the next `setup`.

        Args:
            frozen_at: The frozen layers in an epoch, or None where the classifier takes images.
            views: How many augmentations of a training image are kept: epoch e shows number e mod `views`.
            memory: GiB of features held in memory for each split; above that they stay in mapped files.
        """
        self._frozen_at, self._views, self._feature_memory = frozen_at, views, memory

    def samples(self, split: str) -> Split:
        """The labels, names and groups of `train`, `val` or `test`; after `setup`."""
        if split not in SPLITS:
            raise UserError(f"there is no split '{split}'; choose from {', '.join(SPLITS)}")
        if not self._splits:
            raise RuntimeError("samples are known after setup()")
        return self._splits[split]

    def test_on(self, split: str) -> None:
        """Use another split as `test` from now on, to evaluate on it; after `setup`."""
        self._splits = {**self._splits, "test": self.samples(split)}

    def assignment(self) -> SplitAssignment:
        """The split of each image; after `setup`."""
        return SplitAssignment.of({split: self.samples(split) for split in SPLITS}, self.class_names)

    def keep_splits(self, assignment: SplitAssignment) -> None:
        """Use the splits of an earlier run, whatever `seed` says; before or after `setup`.

        What that run did not have is left out (`not_in_run`). Raises UserError, at the latest in `setup`, where an
        image of it is missing or has changed.
        """
        self._assignment = assignment
        if self._splits:
            self._splits = self._kept(self._splits, assignment)

    def divide_by(self, function: Callable[[Mapping[str, Split], Sequence[str]], SplitAssignment]) -> None:
        """Let a function of the loaded splits and the class names say which split each image is in; before `setup`."""
        self._divide = function

    def image(self, split: str, index: int) -> Pixels:
        """One image as the network sees it, before normalization: uint8 (H, W, C)."""
        chosen = self.samples(split)
        pixels: Pixels = chosen.images.batch(chosen.rows[[index]])[0]
        return pixels

    def augmented(self, index: int, *, epoch: int) -> Pixels:
        """A training image as augmented in an epoch: uint8 (H, W, C)."""
        pixels: Pixels = self._dataset("train", augmented=True).pixels(np.array([index]), epoch=epoch)[0]
        return pixels

    def train_dataloader(self) -> TrainingLoader:
        """Full batches in a new order each epoch, augmented; the loader can resume within an epoch."""
        dataset = self._dataset("train", augmented=True)
        self._report_few_steps(len(dataset))
        cached = self._or_features("train", dataset)
        balance = self.balance
        return TrainingLoader(cached, epochs=self._epochs, balance=balance, **self._loader_options("train", cached))

    @property
    def balance(self) -> Indices | None:
        """The labels of the training split where each class is sampled equally often."""
        return self.samples("train").labels if self.sampling == "balanced" else None

    def val_dataloader(self) -> EvaluationLoader:
        """The validation split, each sample once, in its own order."""
        return self._evaluation_loader("val", self._or_features("val", self._dataset("val")))

    def test_dataloader(self) -> EvaluationLoader:
        """The test split, each sample once, in its own order."""
        return self._evaluation_loader("test", self._dataset("test"))

    def predict_dataloader(self) -> EvaluationLoader:
        """The test split for `trainer.predict`, with labels; `predict_step` takes only the images."""
        return self.test_dataloader()

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Normalize on the device what a loader yielded as uint8."""
        if isinstance(batch, tuple | list) and isinstance(batch[0], Tensor) and batch[0].dtype == torch.uint8:
            return self.preprocessing.normalize(batch[0]), *batch[1:]
        return batch

    def fingerprint(self) -> dict[str, str | int]:
        """Number and bytes of the files, and two digests that change when the data do.

        Equal `stat` (names, sizes, times) means equal files. Where it differs, as in a copy, `content` decides: it
        is read from the files once and then cached under `stat`. A name is a path, which may contain the class.
        """
        files = self.source_files()
        names = _names(files, folder=self.source_folder())
        stats = []
        for path in files:
            with _reading(path):
                stats.append(file_state(path))
        stat = digest([names, stats])
        content = cached_array(f"content-{stat}", lambda: np.frombuffer(_content(files, names), dtype=np.uint8))
        return {
            "files": len(files),
            "bytes": sum(size for size, _, _ in stats),
            "stat": stat,
            "content": content.tobytes().hex(),
        }

    @cached_property
    def _augmentation(self) -> "Augmentation | None":
        if not self.augment:
            return None
        # Imported here, since it takes seconds and evaluation does not need it.
        from litlens.data.augment import Augmentation

        return Augmentation(self.augment, self.preprocessing.resize)

    def _dataset(self, split: str, *, augmented: bool = False) -> SplitDataset:
        augmentation = self._augmentation if augmented else None
        return SplitDataset(
            self.samples(split), preprocessing=self.preprocessing, augmentation=augmentation, seed=self.seed
        )

    def _or_features(self, split: str, images: SplitDataset) -> BatchDataset:
        """The features of a split where a classifier has frozen layers to compute them, except in a dry run."""
        dry = self.trainer is not None and self.trainer.fast_dev_run  # type: ignore[attr-defined]
        if self._frozen_at is None or self._frozen_at(0) is None or dry:
            return images
        memory = self._feature_memory * 2**30
        return FeatureDataset(images, self._frozen_at, views=self._views, memory=memory, name=split)

    def _evaluation_loader(self, split: str, dataset: BatchDataset) -> EvaluationLoader:
        allow_empty = self.allow_zero_length_dataloader_with_multiple_devices
        return EvaluationLoader(dataset, allow_empty=allow_empty, **self._loader_options(split, dataset))

    def fetching(self, split: str, device: torch.device) -> tuple[int, bool]:
        """For a trainer on `device`: how many workers fetch the images, and whether they are held there; after `setup`.

        On a CPU the network needs the cores; a worker takes more from it than it gives (benchmarks/workers.py).
        """
        dataset = self._dataset(split, augmented=split == "train")
        table = dataset.table
        if table is not None and device.type != "cpu" and self.on_device is not False:
            memory = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0
            if self.on_device is True or len(dataset) * math.prod(table.shape[1:]) <= memory / _OF_MEMORY:
                return 0, True
        if self.num_workers != "auto":
            return self.num_workers, False
        # A spawned process imports everything for seconds, and fails in a script without a main guard.
        if table is not None or device.type == "cpu" or multiprocessing.get_start_method() != "fork":
            return 0, False
        spare = suggested_max_num_workers(self.trainer.num_devices if self.trainer else 1)
        return min(spare, _MOST_WORKERS if dataset.augmentation is not None else _MOST_PLAIN), False

    def _loader_options(self, split: str, dataset: BatchDataset) -> dict[str, Any]:
        trainer, device = self.trainer, torch.device("cpu")
        if trainer is not None and is_running(trainer):
            device = trainer.strategy.root_device
        # The network that computes features is in this process.
        workers, hold = (0, False) if isinstance(dataset, FeatureDataset) else self.fetching(split, device)
        return {
            "batch_size": self.batch_size,
            "num_workers": workers,
            "trainer": trainer,
            "device": None if device.type == "cpu" else device,
            "hold": hold,
        }

    def _report_few_steps(self, size: int) -> None:
        """Refuse a split without an image for every device, and report an epoch of few steps, once."""
        trainer = self.trainer
        devices, accumulated = (trainer.world_size, trainer.accumulate_grad_batches) if trainer else (1, 1)
        _, in_batch = training_shape(size=size, batch_size=self.batch_size, world_size=devices)
        if in_batch == 0:
            raise UserError(f"trainer.devices: {devices} for {size} training images: use at most {size}")

        def steps_of(in_batch: int) -> int:
            return -(-(size // (in_batch * devices)) // accumulated)  # after the last batch, too, as Lightning does

        steps, better = steps_of(in_batch), size // (_FEWEST_STEPS * devices * accumulated)
        if steps >= _FEWEST_STEPS:
            return
        what = f"{size} training images" + (f" on {devices} devices" if devices > 1 else "")
        if accumulated > 1:
            what += f" with trainer.accumulate_grad_batches: {accumulated}"
        if in_batch < self.batch_size:
            line = f"data.batch_size: {self.batch_size} for {what}: a batch has only {in_batch}, "
        else:
            line = f"data.batch_size: {self.batch_size} for {what}: "
        line += f"an epoch has {steps} step{'s' * (steps > 1)}"
        if better:
            line += f"; a batch_size of {better} gives {steps_of(better)}"
        if line not in self._reported and (trainer is None or trainer.is_global_zero):
            self._reported.add(line)
            _log.warning(line)

    def _load_once(self) -> None:
        if not self._splits:
            splits = self.load()
            if self._assignment is not None:
                splits = self._kept(splits, self._assignment)
            if self._divide is not None:
                splits = self._divide(splits, self.class_names).applied(splits)
            resize, normalize = Resize(self.image_size, self.resize_mode), self._normalization(splits["train"])
            # Last, so that a setup that failed fails again.
            self._preprocessing, self._splits = Preprocessing(resize, normalize, self.value_range), splits

    def _kept(self, splits: dict[str, Split], assignment: SplitAssignment) -> dict[str, Split]:
        assignment.refuse(assignment.differences(splits, self.class_names))
        known = assignment.split_of()
        self.not_in_run += [name for split in splits.values() for name in split.names if name not in known]
        return assignment.applied(splits)

    def _normalization(self, train: Split) -> Normalize:
        chosen, channels = self.normalize, self.in_channels
        if chosen == "auto":
            chosen = self.preset or ("imagenet" if channels == 3 else "auto")
        mean, std = self._statistics(train) if chosen == "auto" else mean_and_std(chosen, key="data.normalize")
        if len(mean) == len(std) == 1:
            mean, std = mean * channels, std * channels
        if len(mean) != channels:
            raise UserError(
                f"data.normalize: {len(mean)} values for images of {channels} channels: give {channels}, or a preset: "
                f"auto, {', '.join(NORMALIZATIONS)}"
            )
        return Normalize(mean, std)

    def _statistics(self, train: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of the training split, kept in the cache where the data come from files."""
        if self.fingerprint()["files"]:
            rows = hashlib.blake2b(train.rows.tobytes(), digest_size=16).hexdigest()
            prepared = [self.image_size, self.in_channels, self.resize_mode, self.value_range]
            key = digest([self.fingerprint(), rows, *prepared])
            mean, std = cached_array(f"statistics-{key}", lambda: _mean_and_std(train))
        else:
            mean, std = _mean_and_std(train)
        return tuple(float(value) for value in mean), tuple(float(value) for value in std)


def _mean_and_std(split: Split, *, chunk: int = 1024) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Mean and standard deviation of pixels in [0, 1] per channel, exact, from a histogram: float64 (2, C)."""
    histogram: Any = 0
    for start in progress(range(0, len(split), chunk), description="Mean and standard deviation"):
        pixels = split.images.batch(split.rows[start : start + chunk])
        channels = range(pixels.shape[3])
        histogram = histogram + np.stack([np.bincount(pixels[..., c].ravel(), minlength=256) for c in channels])
    values = np.arange(256) / 255
    frequency = histogram / histogram.sum(axis=1, keepdims=True)
    mean = frequency @ values
    # A channel of one value only (a blank data set) must not divide by zero.
    std = np.maximum(np.sqrt(frequency @ values**2 - mean**2), 1 / 255)
    return np.stack([mean, std])


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): repair or remove it, and start again") from error


def _names(files: list[Path], *, folder: Path | None) -> list[str]:
    """The files' paths relative to `folder`; only the name of a file outside of it."""
    if folder is None:
        return [path.name for path in files]
    top, paths = folder.absolute(), [path.absolute() for path in files]
    return [path.relative_to(top).as_posix() if path.is_relative_to(top) else path.name for path in paths]


def _content(files: list[Path], names: list[str]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    named = progress(zip(files, names, strict=True), description="Fingerprint of the data", total=len(files))
    for path, name in named:
        digest.update(os.fsencode(name))  # not every name is UTF-8
        with _reading(path), path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.digest()
