"""Batches of features: the output of a classifier's frozen layers, computed once for each image and view.

Features are kept by the digest of the pixels that they were computed from. Another split, another seed or a resumed run
finds whatever has the same pixels.
"""

import hashlib
import io
import os
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from litlens.data import sampling
from litlens.data.cache import (
    cache_folder,
    cache_folders,
    digest,
    disk_errors,
    limit_size,
    mapped_array,
    one_process,
    remove,
)
from litlens.data.loader import BatchDataset, Request, SplitDataset
from litlens.data.progress import progress
from litlens.files import write_atomically

_VERSION = 2  # counted up when what is kept changes
_BATCH = 16  # images in a pass: more gain little, and 224×224 of them take half a gigabyte in VGG16
_CHUNK = 2**25  # bytes of features in a file: what a killed run loses at most
_SECONDS_UNUSED = 7 * 86_400


class FrozenLayers(Protocol):
    """A function from images to features that never changes; all features have one shape. Equal ones compare equal."""

    def __call__(self, images: Tensor) -> Tensor:
        """Features float32 (B, …) on the CPU of normalized images (B, C, H, W)."""

    def key(self) -> str:
        """A digest of everything that the features depend on besides the images."""

    def batch(self, values: Tensor) -> Any:
        """What takes the place of images in a batch."""


# The layers that are frozen in an epoch, or None where the classifier takes images.
FrozenAt = Callable[[int], FrozenLayers | None]


class FeatureDataset(BatchDataset):
    """A split fetched by the batch, as features while layers of the classifier are frozen, else as images.

    With K views, the features of epoch e are those of the images as they are augmented in epoch e mod K.

    Args:
        images: The split.
        frozen_at: The layers that are frozen in an epoch.
        views: K; 1 where nothing is augmented.
        memory: Bytes of features that are held in memory; above that they stay in mapped files.
        name: What the progress bar calls the split.
    """

    def __init__(
        self, images: SplitDataset, frozen_at: FrozenAt, *, views: int = 1, memory: float = 2**30, name: str = "train"
    ) -> None:
        self.images, self.seed, self.preprocessing = images, images.seed, images.preprocessing
        self._frozen_at, self._name = frozen_at, name
        self._number_of_views = 1 if images.augmentation is None else views
        self._memory = memory / self._number_of_views
        self._frozen: FrozenLayers | None = None
        self._views: dict[int, Callable[[sampling.Indices], NDArray[np.float32]]] = {}

    def __len__(self) -> int:
        return len(self.images)

    def fetch(self, request: Request) -> tuple[Any, Tensor]:  # noqa: D102  (the base's)
        epoch, indices = request
        frozen = self._frozen_at(epoch)
        if frozen is None or frozen != self._frozen:
            self._frozen, self._views = frozen, {}  # of other layers: free their memory first
        if frozen is None:
            return self.images.fetch(request)
        number = epoch % self._number_of_views
        if number not in self._views:
            self._views[number] = self._view(frozen, epoch=number)
        values = torch.from_numpy(self._views[number](indices))
        return frozen.batch(values), torch.from_numpy(self.images.split.labels[indices])

    def _view(self, frozen: FrozenLayers, *, epoch: int) -> Callable[[sampling.Indices], NDArray[np.float32]]:
        """A function from indices to a copy of their features in an epoch; what is missing is computed first."""
        normalize = self.preprocessing.normalize
        folder = cache_folder() / f"features-{digest([_VERSION, frozen.key(), normalize.mean, normalize.std])}"
        names: list[bytes] = []
        with one_process(folder / "lock"):
            _remove_unused(folder)
            store = _Store(folder)
            for start in progress(range(0, len(self), _BATCH), description=f"Features of {self._name}"):
                pixels = self.images.pixels(np.arange(start, min(start + _BATCH, len(self))), epoch=epoch)
                digests = [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in pixels]
                missing = [place for place, name in enumerate(digests) if name not in store]
                if missing:
                    store.add([digests[place] for place in missing], frozen(normalize(pixels[missing])).numpy())
                names += digests
            store.save()
        limit_size()
        places = [store.places[name] for name in names]
        if places[0][0][0].nbytes * len(places) <= self._memory:
            features = np.stack([table[row] for table, row in places])
            return lambda indices: features[indices]
        return lambda indices: np.stack([table[row] for table, row in (places[index] for index in indices)])


class _Store:
    """Features of one function by the digest of the pixels, in chunks that appear complete or not at all."""

    def __init__(self, folder: Path) -> None:
        self.places: dict[bytes, tuple[NDArray[np.float32], int]] = {}  # table and row of what is on the disk
        self._folder = folder
        self._unsaved: dict[bytes, NDArray[np.float32]] = {}
        for place in cache_folders():
            for path in sorted((place / folder.name).glob("*.npy")):
                self._open(path)

    def __contains__(self, name: bytes) -> bool:
        return name in self.places or name in self._unsaved

    def add(self, names: list[bytes], features: NDArray[np.float32]) -> None:
        """Take features (B, …), and write a chunk when there are enough."""
        self._unsaved.update(zip(names, features, strict=True))
        if len(self._unsaved) * features[0].nbytes >= _CHUNK:
            self.save()

    def save(self) -> None:
        """Write what is not on the disk yet."""
        if not self._unsaved:
            return
        shape = next(iter(self._unsaved.values())).shape
        table = np.empty(len(self._unsaved), dtype=[("pixels", "V16"), ("features", np.float32, shape)])
        for row, (name, values) in enumerate(self._unsaved.items()):
            table[row] = np.void(name), values
        content = io.BytesIO()
        np.save(content, table, allow_pickle=False)
        path = self._folder / f"{uuid.uuid4().hex}.npy"
        with disk_errors():
            write_atomically(path, content.getvalue())
        self._unsaved.clear()
        self._open(path)

    def _open(self, path: Path) -> None:
        table = mapped_array(path)
        if table is not None:  # a damaged chunk is computed again
            self.places.update({name.tobytes(): (table["features"], row) for row, name in enumerate(table["pixels"])})


def _remove_unused(folder: Path) -> None:
    """Note that a folder of features is used now, and remove others that were not for long."""
    with suppress(OSError):
        os.utime(folder)
    for other in folder.parent.glob("features-*"):
        with suppress(OSError):
            if time.time() - other.stat().st_mtime > _SECONDS_UNUSED:
                remove(other)
