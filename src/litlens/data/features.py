"""Batches of features: what the fixed layers of a classifier make of each image, computed once and kept.

The files hold features by image of the whole data set, so that another cut into splits finds them there.
"""

import hashlib
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from numpy.typing import NDArray
from torch import Tensor

from litlens.data import order
from litlens.data.cache import digest, filled_array
from litlens.data.loader import BatchDataset, SplitDataset
from litlens.data.preprocessing import Pixels
from litlens.data.progress import progress
from litlens.data.split import Images
from litlens.errors import UserError

_VERSION = 1  # counted up when what is kept changes
_BATCH = 16  # images in a pass: more gain little, and 224×224 of them take half a gigabyte in VGG16


class FixedPart(Protocol):
    """A function from images to features that never changes; features of one source have one shape."""

    @property
    def source(self) -> str:
        """What it is, but for the values of its weights: a new cache of one source replaces the old one."""

    def __call__(self, images: Tensor) -> Tensor:
        """Features float32 (B, …) on the CPU of images (B, C, H, W)."""

    def key(self) -> str:
        """A digest of everything that the features depend on besides the images."""

    def batch(self, values: Tensor) -> Any:
        """What stands in the place of images in a batch."""


class FeatureSource(Protocol):
    """A classifier of which a part is fixed."""

    cached_augmentations: int
    feature_memory: float

    def fixed_part(self, epoch: int) -> FixedPart | None:
        """The part that is fixed in an epoch, or None where images are wanted."""


def feature_source(trainer: Trainer | None) -> FeatureSource | None:
    """The classifier that is being fitted, where it takes features in place of images in some epoch."""
    if trainer is None or trainer.state.fn != TrainerFn.FITTING:
        return None
    classifier: Any = trainer.lightning_module
    # The first stage fixes most.
    return classifier if hasattr(classifier, "fixed_part") and classifier.fixed_part(0) is not None else None


def pixels_digest(images: Images, *, size: int, chunk: int = 256) -> str:
    """What tells the images 0 to size - 1 of one data set from all others: a gigabyte takes about a second."""
    digest = hashlib.blake2b(digest_size=16)
    for start in progress(range(0, size, chunk), description="Digest of the images"):
        digest.update(images.batch(np.arange(start, min(start + chunk, size))).tobytes())
    return digest.hexdigest()


def check_views(views: int, *, augmented: bool) -> None:
    """Raise UserError where one view would leave nothing of the augmentation, or where there are views of nothing."""
    if augmented and views < 2:
        raise UserError(
            "model.cached_augmentations: of augmented images at least 2 are kept, the image as it is and others: "
            "raise it, remove data.augment, or set model.cache_features to false"
        )
    if views > 1 and not augmented:
        raise UserError(
            f"model.cached_augmentations: {views} views of an image that nothing augments are all the same: "
            "give data.augment, or leave it out"
        )


class FeatureDataset(BatchDataset):
    """A split fetched by the batch, as features while a part of the classifier is fixed, else as images.

    Where `images` are augmented, `source.cached_augmentations` are kept of each image, and one is drawn in each epoch:
    number 0 is the image as it is, the others are augmented, the same ones for every seed.

    Args:
        images: The split.
        source: The classifier.
        trainer: Says which epoch it is.
        name: What the progress bar calls the split.
        about: Plain values: what all images are and how they are prepared; the features depend on it.
        owner: Plain values that stay when files change: whose old features the new ones replace.
        size: How many images there are over all splits.
    """

    def __init__(
        self,
        images: SplitDataset,
        source: FeatureSource,
        *,
        trainer: Trainer,
        name: str,
        about: Any,
        owner: Any,
        size: int,
    ) -> None:
        self.images, self.source, self.trainer = images, source, trainer
        self.seed = images.seed
        self.views = 1 if images.augmentation is None else source.cached_augmentations
        self._name, self._about, self._owner, self._size = name, about, owner, size
        self._kept: tuple[str, list[_Kept]] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def fetch(self, request: tuple[int, order.Indices]) -> Any:
        """The samples of an epoch that are asked for, as a batch of features or of images."""
        epoch, indices = request
        part = self.source.fixed_part(self.trainer.current_epoch)
        if part is None:
            self._kept = None
            return self.images.fetch(request)
        views = self._views(part, indices)
        if self.views == 1:
            values = views[0](indices)
        else:
            drawn = order.drawn_views(seed=self.seed, epoch=epoch, indices=indices, views=self.views)
            values = np.empty((len(indices), *views[0].shape), np.float32)
            for number, view in enumerate(views):
                values[drawn == number] = view(indices[drawn == number])
        return part.batch(torch.from_numpy(values)), torch.from_numpy(self.images.split.labels[indices])

    def _views(self, part: FixedPart, indices: order.Indices) -> list["_Kept"]:
        """The features of this split by view, computed where they are not there yet."""
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return [self._view(part, number, indices, memory=0) for number in range(self.views)]
        if self._kept is None or self._kept[0] != part.source:
            self._kept = None  # of another stage: make room first
            memory, all_of_it = self.source.feature_memory * 2**30 / self.views, np.arange(len(self))
            self._kept = part.source, [self._view(part, n, all_of_it, memory=memory) for n in range(self.views)]
        return self._kept[1]

    def _view(self, part: FixedPart, number: int, indices: order.Indices, *, memory: float) -> "_Kept":
        images, rows = self.images, self.images.split.rows
        augmentation = images.augmentation.steps if images.augmentation and number else None
        about = [number, repr(augmentation), self._size]
        shape = tuple(part(images.preprocessing.normalize(images.split.images.batch(rows[:1]))).shape[1:])
        mapped = filled_array(
            digest([_VERSION, part.key(), self._about, about]),
            lambda table: None,  # zeros: nothing has been computed yet
            shape=(self._size,),
            dtype=[("check", np.uint32), ("features", np.float32, shape)],
            owner=f"features-{digest([part.source, self._owner, about])}",
        )
        path = Path(str(mapped.filename))
        table = np.load(path, mmap_mode="r+", allow_pickle=False)

        def pixels(indices: order.Indices) -> Pixels:
            if number == 0:
                return images.split.images.batch(rows[indices])
            rngs = (order.view_rng(view=number, row=int(rows[index])) for index in indices)
            return np.stack([images.augmented(int(i), rng) for i, rng in zip(indices, rngs, strict=True)])

        with _alone(path):
            self._fill(table, indices, lambda chunk: part(images.preprocessing.normalize(pixels(chunk))))
        return _Kept(table["features"], rows, in_memory=len(rows) * table.dtype.itemsize <= memory)

    def _fill(self, table: NDArray[Any], indices: order.Indices, features: Callable[[order.Indices], Tensor]) -> None:
        """Compute what is missing. The checksum tells a whole row from one that a power cut left half written."""
        rows = self.images.split.rows
        missing = indices[[table["check"][row] != _check(table["features"][row]) for row in rows[indices]]]
        starts = range(0, len(missing), _BATCH)
        for start in progress(starts, description=f"Features of {self._name}"):
            chunk = missing[start : start + _BATCH]
            values = features(chunk).numpy()
            table["features"][rows[chunk]] = values
            table["check"][rows[chunk]] = [_check(value) for value in values]
        if len(missing):
            table.flush()  # type: ignore[attr-defined]


class _Kept:
    """The features of a split in one view, in memory or mapped."""

    def __init__(self, features: NDArray[np.float32], rows: order.Indices, *, in_memory: bool) -> None:
        self.shape = features.shape[1:]
        self._rows = None if in_memory else rows
        self._features = np.array(features[rows]) if in_memory else features

    def __call__(self, indices: order.Indices) -> NDArray[np.float32]:
        """A copy of the features (B, …) of samples of the split."""
        return np.array(self._features[indices if self._rows is None else self._rows[indices]])


def _check(values: NDArray[np.float32]) -> int:
    # Never 0, which stands for what has not been computed.
    return zlib.crc32(values.tobytes()) or 1


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let one process of a machine compute; the others wait and then find everything there."""
    with path.open("rb") as file:
        with suppress(ImportError, OSError):  # Windows, or a file system without locks: all compute the same
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield  # closing the file gives the lock back
