"""Find duplicates across splits: a model that was trained on an image of the test split scores too high."""

import hashlib

import numpy as np

from litlens.data.module import SPLITS, ImageDataModule
from litlens.data.progress import progress


def shared_between_splits(data: ImageDataModule, *, chunk: int = 1024) -> list[tuple[str, str]]:
    """The names of each two images in different splits whose pixels at the network's size are equal.

    An image is paired with the first equal one of an earlier split (in the order train, val, test).
    """
    seen: dict[bytes, tuple[str, str]] = {}
    pairs = []
    for split_name in SPLITS:
        split = data.samples(split_name)
        for start in progress(range(0, len(split), chunk), description=f"Duplicates in {split_name}"):
            rows = split.rows[start : start + chunk]
            for offset, pixels in enumerate(np.ascontiguousarray(split.images.batch(rows))):
                name = split.names[start + offset]
                first_split, first = seen.setdefault(
                    hashlib.blake2b(pixels.data, digest_size=16).digest(), (split_name, name)
                )
                if first_split != split_name:
                    pairs.append((first, name))
    return pairs
