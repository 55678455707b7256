"""The base of every data module: from the splits that a subclass loads to loaders, statistics and provenance."""

import hashlib
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningDataModule

from litlens.constants import NORMALIZATIONS
from litlens.data.augment import Augmentation
from litlens.data.cache import cached_array, digest, file_state
from litlens.data.features import FeatureDataset, check_views, feature_source, pixels_digest
from litlens.data.loader import EvaluationLoader, SplitDataset, TrainingLoader
from litlens.data.preprocessing import Pixels, Preprocessing, ResizeMode
from litlens.data.progress import progress
from litlens.data.split import Split
from litlens.errors import UserError

SPLITS = ("train", "val", "test")


class ImageDataModule(LightningDataModule, ABC):
    """Images with one label each, in three splits, as batches for any LightningModule or a plain `for` loop.

    A loader yields `(images, labels)`: float32 (B, C, H, W), normalized, and int64 (B,). The order and the
    augmentation follow from the seed and the epoch alone (`litlens.data.order`).

    A subclass sets `class_names`, `in_channels` and `image_size` on construction, without reading the data, and
    gives `load` and, where it has files, `source_files`.

    Args:
        batch_size: Samples in a batch, on each device. Training leaves out the tail of an epoch that fills no batch.
        num_workers: Processes that fetch batches; 0 fetches in the training process, best for images in memory.
        seed: Every split, order and augmentation follows from it. The command sets it to `seed_everything`.
        normalize: `auto` (a known set's constants, else mean and deviation of the training split), a set's name
            (`mnist`, `fashion`, `imagenet`, `imagenet_features`, `half`), or `{mean: […], std: […]}` of pixels
            in [0, 1].
        augment: Augmentations of the training split, in order: one name, or a list of names, each alone or with its
            options (`litlens.data.augment`).
    """

    class_names: list[str]
    in_channels: int
    image_size: tuple[int, int]
    # What becomes of an image of another aspect ratio (`Preprocessing.resize_mode`).
    resize_mode: ResizeMode = "crop"
    # The known set (`NORMALIZATIONS`) whose constants `normalize: auto` means here, where there is one.
    preset: str | None = None

    def __init__(
        self,
        *,
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int = 0,
        normalize: str | dict[str, list[float]] = "auto",
        augment: list[str | dict[str, Any]] | str | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise UserError(f"data.batch_size: {batch_size} is less than 1")
        if num_workers < 0:
            raise UserError(f"data.num_workers: {num_workers} is less than 0")
        if isinstance(normalize, str) and normalize not in ("auto", *NORMALIZATIONS):
            raise UserError(
                f"data.normalize: no set is called '{normalize}'; give auto, {', '.join(NORMALIZATIONS)}, "
                "or {mean: [...], std: [...]}"
            )
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.normalize = normalize
        self.augment: list[str | dict[str, Any]] | None = [augment] if isinstance(augment, str) else augment
        # Names of the files that `load` left out, each with the reason.
        self.left_out: list[str] = []
        self._splits: dict[str, Split] = {}
        self._pixels: dict[str, str] = {}
        self._preprocessing: Preprocessing | None = None
        self._augmentation: Augmentation | None = None

    @abstractmethod
    def load(self) -> dict[str, Split]:
        """Read the data and cut it into `train`, `val` and `test`. Called once a process, by the first rank first."""

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
        """Load the splits, the same for every stage; a second call does nothing."""
        self._load_once()
        trainer = self.trainer
        # Lightning would replace our batches by a sampler that repeats samples
        # (https://github.com/Lightning-AI/pytorch-lightning/issues/21859 shows what its averages make of that).
        if trainer and trainer.world_size > 1 and trainer._accelerator_connector.use_distributed_sampler:
            raise UserError("Trainer(use_distributed_sampler=False) is needed: litlens shares samples out exactly")

    def samples(self, split: str) -> Split:
        """The labels, names and groups of `train`, `val` or `test`; after `setup`."""
        if split not in SPLITS:
            raise UserError(f"no split is called '{split}'; there are {', '.join(SPLITS)}")
        if not self._splits:
            raise RuntimeError("samples are known after setup()")
        return self._splits[split]

    def image(self, split: str, index: int) -> Pixels:
        """One image as the network sees it, before normalization: uint8 (H, W, C)."""
        chosen = self.samples(split)
        pixels: Pixels = chosen.images.batch(chosen.rows[[index]])[0]
        return pixels

    def augmented(self, index: int, *, epoch: int) -> Pixels:
        """What augmentation makes of a training image in an epoch: uint8 (H, W, C)."""
        pixels: Pixels = self._dataset("train", augmented=True).pixels(np.array([index]), epoch=epoch)[0]
        return pixels

    def train_dataloader(self) -> TrainingLoader:
        """Full batches in a new order each epoch, augmented; the loader can resume within an epoch."""
        dataset = self._or_features("train", self._dataset("train", augmented=True))
        # Features lie in memory, and the network that makes them is in this process.
        workers = 0 if isinstance(dataset, FeatureDataset) else self.num_workers
        loader = TrainingLoader(dataset, batch_size=self.batch_size, num_workers=workers, trainer=self.trainer)
        if len(loader) == 0:
            devices = self.trainer.world_size if self.trainer else 1
            raise UserError(
                f"data.batch_size: {self.batch_size} on {devices} device(s) is more than the {len(dataset)} "
                f"training images; give at most {len(dataset) // devices}"
            )
        return loader

    def val_dataloader(self) -> EvaluationLoader:
        """The validation split, each sample once, in its own order."""
        dataset = self._or_features("val", self._dataset("val", augmented=False))
        if isinstance(dataset, FeatureDataset):
            return EvaluationLoader(dataset, batch_size=self.batch_size, trainer=self.trainer)
        return self.evaluation_dataloader("val")

    def test_dataloader(self) -> EvaluationLoader:
        """The test split, each sample once, in its own order."""
        return self.evaluation_dataloader("test")

    def evaluation_dataloader(self, split: str) -> EvaluationLoader:
        """Any split as evaluation sees it: not augmented, each sample once over all ranks, in its own order."""
        dataset = self._dataset(split, augmented=False)
        return EvaluationLoader(dataset, batch_size=self.batch_size, num_workers=self.num_workers, trainer=self.trainer)

    def fingerprint(self) -> dict[str, str | int]:
        """What the data are: number and bytes of the files, and two digests that tell whether they have changed.

        Equal `stat` (names, sizes, times) means equal files. Where it differs, as in a copy, `content` decides: it
        is read from the files once and then kept in the cache under `stat`. A name is a path, which may say the class.
        """
        files = self.source_files()
        names = _names(files, folder=self.source_folder())
        stats = [file_state(path) for path in files]
        stat = digest([names, stats])
        content = cached_array(f"content-{stat}", lambda: np.frombuffer(_content(files, names), dtype=np.uint8))
        return {
            "files": len(files),
            "bytes": sum(size for size, _, _ in stats),
            "stat": stat,
            "content": content.tobytes().hex(),
        }

    def _dataset(self, split: str, *, augmented: bool) -> SplitDataset:
        augmentation = self._augmentation if augmented else None
        return SplitDataset(
            self.samples(split), preprocessing=self.preprocessing, augmentation=augmentation, seed=self.seed
        )

    def _or_features(self, split: str, images: SplitDataset) -> SplitDataset | FeatureDataset:
        """The images, or where a classifier is fitted of which a part is fixed, what that makes of them."""
        source = feature_source(self.trainer)
        if source is None or self.trainer is None:
            return images
        check_views(source.cached_augmentations, augmented=bool(self.augment))
        sharing = self._sharing(images.split)
        folder = self.source_folder()
        # What is set, not the mean and deviation that follow from it: they change with the files and the seed.
        prepared = [self.image_size, self.in_channels, self.resize_mode, self.normalize]
        owner = [type(self).__name__, folder and str(folder.resolve()), sharing[0], prepared]
        size = self._number_of_images(images.split)
        # The pixels at the network's size tell of every option that has made them, the files of the originals.
        about = [self._digest_of_pixels(images.split), self.fingerprint()["content"], self.preprocessing.to_dict()]
        return FeatureDataset(images, source, trainer=self.trainer, name=split, about=about, owner=owner, size=size)

    def _sharing(self, split: Split) -> list[str]:
        """The splits that are cut from the same images."""
        return [name for name in SPLITS if self._splits[name].images is split.images]

    def _number_of_images(self, split: Split) -> int:
        return max(int(self._splits[name].rows.max()) for name in self._sharing(split)) + 1

    def _digest_of_pixels(self, split: Split) -> str:
        first = self._sharing(split)[0]
        if first not in self._pixels:
            self._pixels[first] = pixels_digest(split.images, size=self._number_of_images(split))
        return self._pixels[first]

    def _load_once(self) -> None:
        if self._splits:
            return
        self._splits = self.load()
        mean, std = self._statistics()
        if len(mean) == len(std) == 1:
            mean, std = mean * self.in_channels, std * self.in_channels
        self._preprocessing = Preprocessing(
            size=self.image_size, channels=self.in_channels, mean=mean, std=std, resize_mode=self.resize_mode
        )
        if self.augment:
            self._augmentation = Augmentation(self.augment, image_size=self.image_size, resize_mode=self.resize_mode)

    def _statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        if isinstance(self.normalize, dict):
            unknown = set(self.normalize) ^ {"mean", "std"}
            if unknown:
                raise UserError(f"data.normalize: needs mean and std and nothing else, not {sorted(self.normalize)}")
            return tuple(self.normalize["mean"]), tuple(self.normalize["std"])
        known = self.preset if self.normalize == "auto" else self.normalize
        if known is not None:
            return NORMALIZATIONS[known]
        train = self._splits["train"]
        rows = hashlib.blake2b(train.rows.tobytes(), digest_size=16).hexdigest()
        # Data without files all have one fingerprint; only their pixels tell them apart.
        pixels = None if self.source_files() else self._digest_of_pixels(train)
        key = digest([self.fingerprint(), pixels, rows, self.image_size, self.in_channels, self.resize_mode])
        mean, std = cached_array(f"statistics-{key}", lambda: _mean_and_std(train))
        return tuple(float(value) for value in mean), tuple(float(value) for value in std)


def _mean_and_std(split: Split, *, chunk: int = 1024) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Mean and standard deviation of pixels in [0, 1] per channel, exact, from a histogram: float64 (2, C)."""
    histogram: Any = 0
    for start in progress(range(0, len(split), chunk), description="Mean and standard deviation"):
        pixels = split.images.batch(split.rows[start : start + chunk])
        channels = range(pixels.shape[3])
        histogram = histogram + np.stack([np.bincount(pixels[..., c].ravel(), minlength=256) for c in channels])
    values = np.arange(256) / 255
    share = histogram / histogram.sum(axis=1, keepdims=True)
    mean = share @ values
    # A channel of one value only (a blank data set) must not divide by zero.
    std = np.maximum(np.sqrt(share @ values**2 - mean**2), 1 / 255)
    return np.stack([mean, std])


def _names(files: list[Path], *, folder: Path | None) -> list[str]:
    """The files' paths relative to `folder`; of one that lies elsewhere the name alone."""
    if folder is None:
        return [path.name for path in files]
    top, whole = folder.absolute(), [path.absolute() for path in files]
    return [path.relative_to(top).as_posix() if path.is_relative_to(top) else path.name for path in whole]


def _content(files: list[Path], names: list[str]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    named = progress(zip(files, names, strict=True), description="Fingerprint of the data", total=len(files))
    for path, name in named:
        digest.update(os.fsencode(name))  # not every name is UTF-8
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.digest()
