"""What a data set consists of: images that are fetched by row, and splits that list rows with their labels."""

import hashlib
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from litlens.data.names import at_places
from litlens.data.preprocessing import Pixels


def content_hash(kind: Literal["file", "pixels"], content: bytes | memoryview) -> str:
    """A hash of an image file's bytes, or of an array's, for data that do not come as one file each."""
    return f"{kind}:{hashlib.blake2b(content, digest_size=16).hexdigest()}"


def signature(content: bytes | Pixels) -> int:
    """A number of 64 bits, equal for equal bytes, and for equal pixels of an image."""
    if not isinstance(content, bytes):
        content = content[::4, ::4].tobytes()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


class Images(Protocol):
    """The images of a data set, decoded and fetched by row."""

    def batch(self, rows: NDArray[np.int64]) -> Pixels:
        """Images at the network's size: uint8 (B, H, W, C)."""

    def original(self, row: int) -> Pixels:
        """One image before the resize: uint8 (h, w, C)."""

    def hashes(self, rows: NDArray[np.int64]) -> list[str]:
        """The `content_hash` of each image: equal in every run, whatever its name is; empty where it is not known."""

    def signatures(self, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
        """A number of each image, equal for equal images and rarely for others; 0 where it is not known."""


@dataclass(frozen=True)
class ArrayImages:
    """Images of the network's size in one array, in memory or mapped from a file: uint8 (N, H, W, C)."""

    pixels: Pixels

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle a mapped array, or a slice of one, as its place in the file.

        Where worker processes are spawned (Windows, macOS), each would be sent a copy of all pixels.
        """
        if (place := _place(self.pixels)) is None:
            return ArrayImages, (self.pixels,)
        return _mapped, (*place, self.pixels.shape)

    def batch(self, rows: NDArray[np.int64]) -> Pixels:
        """Images at the network's size: uint8 (B, H, W, C)."""
        return np.asarray(self.pixels[rows])

    def original(self, row: int) -> Pixels:
        """One image of the array: uint8 (H, W, C)."""
        return np.asarray(self.pixels[row])

    def hashes(self, rows: NDArray[np.int64]) -> list[str]:
        """The hash of the pixels of each image."""
        return [self._hashes[row] for row in rows.tolist()]

    @cached_property
    def _hashes(self) -> list[str]:
        # A run asks for them five times. They take a tenth of the memory of the smallest images.
        return [content_hash("pixels", np.ascontiguousarray(image).data) for image in self.pixels]

    def signatures(self, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
        """A number of each image, equal for equal images and rarely for others."""
        return np.fromiter((signature(self.pixels[row]) for row in rows.tolist()), np.uint64, len(rows))


def _place(pixels: Pixels) -> tuple[str, int] | None:
    """The file of a contiguous mapped array and the offset of its first byte; None of other arrays."""
    base: Any = pixels
    while isinstance(base, np.ndarray) and isinstance(base.base, np.ndarray):
        base = base.base
    if not (isinstance(base, np.memmap) and isinstance(base.base, mmap.mmap) and pixels.flags.c_contiguous):
        return None
    # A slice has the `offset` of the array that it was taken from.
    return str(base.filename), base.offset + pixels.ctypes.data - base.ctypes.data


def _mapped(path: str, offset: int, shape: tuple[int, ...]) -> ArrayImages:
    return ArrayImages(np.memmap(path, dtype=np.uint8, mode="r", offset=offset, shape=shape))


@dataclass(frozen=True)
class Split:
    """One split: sample i is row `rows[i]` of `images`, of class `labels[i]` (int64), called `names[i]`.

    Names are unique in a data set and stay the same from run to run: a file's relative path, or `test/00042`.
    `groups[i]` names what must not be split (a font family, a patient), where there are groups.
    """

    images: Images
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    names: Sequence[str]
    groups: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def hashes(self) -> list[str]:
        """The `content_hash` of each image."""
        return self.images.hashes(self.rows)

    def at(self, places: NDArray[np.int64]) -> "Split":
        """The samples at some places, in their order."""
        return Split(
            self.images,
            rows=self.rows[places],
            labels=self.labels[places],
            names=at_places(self.names, places),
            groups=None if self.groups is None else [self.groups[place] for place in places],
        )
