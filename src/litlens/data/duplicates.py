"""Find duplicates across splits: a model that was trained on an image of the test split scores too high."""

import hashlib

import numpy as np

from litlens.data.module import SPLITS, ImageDataModule
from litlens.data.progress import progress


def shared_between_splits(data: ImageDataModule, *, chunk: int = 1024) -> list[tuple[str, str]]:
    """The names of each two images in different splits whose pixels at the network's size are equal.

    An image is paired with the first equal one of an earlier split (in the order train, val, test). Of files that are
    not in the cache at the network's size, only those are compared whose pixels were equal before the resize.
    """
    splits = [data.samples(name) for name in SPLITS]
    signatures = [split.images.signatures(split.rows) for split in splits]
    # Those of each split once, so that whatever is left twice is in two splits.
    values, times = np.unique(np.concatenate([np.unique(found) for found in signatures]), return_counts=True)
    in_two = values[(times > 1) & (values > 0)]
    seen: dict[bytes, tuple[int, str]] = {}
    pairs = []
    for number, (split, found) in enumerate(zip(splits, signatures, strict=True)):
        places = np.flatnonzero(np.isin(found, in_two))
        for start in progress(range(0, len(places), chunk), description=f"Duplicates in {SPLITS[number]}"):
            chosen = places[start : start + chunk]
            for place, pixels in zip(chosen.tolist(), split.images.batch(split.rows[chosen]), strict=True):
                name = split.names[place]
                key = hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16).digest()
                first_split, first = seen.setdefault(key, (number, name))
                if first_split != number:
                    pairs.append((first, name))
    return pairs
