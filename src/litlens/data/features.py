"""Batches of features: what the fixed layers of a classifier make of each picture, computed once and kept.

The files hold features by picture of the whole data set, so that other cuts of it into splits find theirs.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from lightning.pytorch import Trainer
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from litlens.data import order
from litlens.data.cache import filled_array
from litlens.data.loader import SplitDataset
from litlens.data.preprocessing import Pixels
from litlens.data.progress import progress
from litlens.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

_VERSION = 1  # counted up when what is kept changes
_BATCH = 16  # pictures in a pass: more gain nothing on a CPU, and 224×224 of them take 0.4 GB in VGG16


class FixedPart(Protocol):
    """A function from images to features that never changes."""

    source: str
    """What it is, but for the values of its weights: a new cache of one source takes the place of the old."""

    def __call__(self, images: Tensor) -> Tensor:
        """Features float32 (B, …) on the CPU of images (B, C, H, W)."""

    def key(self) -> str:
        """A digest of everything that the features depend on besides the images."""

    def batch(self, values: Tensor) -> Any:
        """What stands in the place of images in a batch."""


class FeatureSource(Protocol):
    """A classifier of which a part is fixed."""

    feature_views: int
    feature_memory: float

    def fixed_part(self, epoch: int) -> FixedPart | None:
        """The part that is fixed in an epoch, or None where images are wanted."""


def feature_source(trainer: Trainer | None) -> FeatureSource | None:
    """The classifier that the trainer fits, if it wants features in place of images in any epoch."""
    if trainer is None or not trainer.fitting_features():
        return None
    return None


class FeatureDataset(Dataset[Any]):
    """A split fetched by the batch, as features while part of the classifier is fixed, else as images.

    In training, one of `views` is drawn for each picture and epoch: number 0 is the picture as it is, the others
    are augmented, the same ones for every seed.
    """

    def __init__(self, images: SplitDataset, source: FeatureSource, *, trainer: Trainer, name: str, about: Any) -> None:
        self.images, self.source, self.trainer = images, source, trainer
        self.seed = images.seed
        self._name, self._about = name, about
        self._kept: tuple[str, list[NDArray[np.float32]]] | None = None
