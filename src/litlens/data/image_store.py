"""Decoded images in two files that only grow, so that one new image costs one image.

`pixels` has images of any sizes, one after the other; `index` has a record for each, written once its pixels are on the
disk. Processes map both files and share their memory.
"""

import os
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from litlens.data.cache import cache_folder, cache_folders, disk_errors, limit_size, locks, one_process
from litlens.data.preprocessing import Pixels

Rows = NDArray[np.int64]
Keys = NDArray[np.uint64]
Record = NDArray[Any]  # one of `RECORD`
RECORD = np.dtype(
    [
        ("key", np.uint64),  # a digest of the file's name, size and times, and of how it was decoded
        ("hash", "V16"),  # of the file's bytes
        ("signature", np.uint64),  # equal where the pixels are equal, and rarely elsewhere
        ("resized", np.uint64),  # the same of the pixels at the network's size, where those are kept
        ("size", np.int32, (2,)),  # height and width of the image in the file
        ("values", np.float64, (2,)),  # lowest and highest value of an image of more than 8 bits; else 0, 0
        ("offset", np.int64),  # of the pixels that are kept
        ("shape", np.int32, (2,)),  # their height and width; 0, 0 where none are
        ("check", np.uint32),  # tells a complete record from a part of one
    ]
)
_SYNC = 2**26  # bytes of pixels after which their records are written: what a killed process loses at most
_SECONDS_UNAWARE = 60.0  # how long a process may not know what others have noted


@dataclass(eq=False)
class _Mapped:
    """The two files as they are now; `slots[row]` is the number of a file's record, -1 where there is none."""

    slots: NDArray[np.int32]
    index: NDArray[Any] = field(default_factory=lambda: np.empty(0, RECORD))
    pixels: Pixels = field(default_factory=lambda: np.empty(0, np.uint8))
    end: int = 0  # of the pixels that have a record


class ImageStore:
    """What is known of some files, each a row, and the pixels that are kept of them, in a folder of the cache.

    Args:
        name: The folder's name, which says of which data set and of which size the images are.
        keys: The key of each row.
        channels: Of every image.
    """

    def __init__(self, name: str, keys: Keys, *, channels: int) -> None:
        self.name, self.keys, self.channels = name, keys, channels
        self.open()

    def __getstate__(self) -> dict[str, Any]:
        # A mapped array is pickled with all its pixels; a worker process maps the file again instead.
        return {"name": self.name, "keys": self.keys, "channels": self.channels}

    def __setstate__(self, state: dict[str, Any]) -> None:
        ImageStore.__init__(self, **state)

    def open(self) -> None:
        """Map what the files have by now: those of the cache's folder that has most of the rows."""
        found = [self._mapped(folder / self.name) for folder in cache_folders()]
        self._now = max(found, key=lambda mapped: np.count_nonzero(mapped.slots >= 0))
        self._noted = self._now.slots >= 0
        self._opened = time.monotonic()

    def has(self, rows: Rows) -> NDArray[np.bool_]:
        """Whether there is a record of each row."""
        return self._now.slots[rows] >= 0

    def facts(self, name: str, rows: Rows) -> NDArray[Any]:
        """A field of the records of some rows, all of which there are."""
        return np.asarray(self._now.index[name][self._now.slots[rows]])

    def image(self, row: int) -> Pixels | None:
        """A view of the pixels of a row, uint8 (h, w, C), where they are kept."""
        if self._now.slots[row] < 0:
            return None
        record = self._now.index[self._now.slots[row]]
        (height, width), start = record["shape"].tolist(), int(record["offset"])
        pixels = self._now.pixels[start : start + height * width * self.channels]
        return pixels.reshape(height, width, self.channels)

    def batch(self, rows: Rows, size: tuple[int, int]) -> Pixels | None:
        """A copy of the pixels of some rows, uint8 (B, H, W, C), where all of them are kept, and all of one size."""
        if not self.has(rows).all():
            return None
        length = size[0] * size[1] * self.channels
        table = self._now.pixels[: self._now.end].reshape(-1, *size, self.channels)
        return np.asarray(table[self.facts("offset", rows) // length])

    def fill(self, rows: Rows, decoded: Callable[[Rows], Iterator[tuple[Record, Pixels | None]]]) -> None:
        """Add the rows that have no record yet. One process of a machine does; the others wait and find them.

        `decoded` yields a record for each row, in any order, with the pixels to keep; none for a row that has none.
        """
        if self.has(rows).all():
            return
        folder = cache_folder() / self.name
        with one_process(folder / "lock"):
            self._now = self._mapped(folder)
            if len(missing := rows[~self.has(rows)]):
                self._remove_outdated(folder)
                self._append(folder, decoded(missing))
            self.open()
        limit_size()

    def note(self, row: int, record: Record) -> None:
        """Add a record without pixels where there is none; any process may, at any time."""
        if time.monotonic() - self._opened > _SECONDS_UNAWARE:
            self.open()
        if not self._noted[row]:
            self._noted[row] = True
            path = cache_folder() / self.name / "index"
            with suppress(OSError):  # noted only to save time later
                path.parent.mkdir(parents=True, exist_ok=True)
                # In one piece, whatever other processes append.
                with path.open("ab", buffering=0) as file:
                    file.write(_checked(record))

    def _append(self, folder: Path, images: Iterator[tuple[Record, Pixels | None]]) -> None:
        with disk_errors(), (folder / "pixels").open("ab") as pixels, (folder / "index").open("ab") as index:
            end = synced = self._now.end
            for file, complete in ((pixels, end), (index, index.tell() // RECORD.itemsize * RECORD.itemsize)):
                if file.tell() > complete:  # a killed process wrote pixels without a record, or a part of a record
                    file.truncate(complete)

            def write(complete: list[bytes]) -> None:
                os.fsync(pixels.fileno())  # otherwise a power cut may leave records of pixels that are zeros
                index.write(b"".join(complete))
                index.flush()

            # In a thread of its own: the disk writes while the next images are decoded.
            with ThreadPoolExecutor(1) as disk:
                records, on_disk = list[bytes](), disk.submit(write, [])
                try:
                    for record, image in images:
                        if image is not None:
                            record["offset"], record["shape"] = end, image.shape[:2]
                            pixels.write(np.ascontiguousarray(image).data)
                            end += image.nbytes
                        records.append(_checked(record))
                        if end - synced > _SYNC:
                            on_disk.result()
                            pixels.flush()
                            synced, records, on_disk = end, [], disk.submit(write, records)
                finally:
                    on_disk.result()
                    pixels.flush()
                    disk.submit(write, records).result()

    def _remove_outdated(self, folder: Path) -> None:
        """Begin again where most records are of files that have changed or are gone, and no other process uses them."""
        if len(self._now.index) <= 2 * len(self.keys):
            return
        self._now = _Mapped(_none_of(self.keys))  # which unlocks the index
        with suppress(OSError), (folder / "index").open("rb+") as index:
            if locks(index, alone=True):
                (folder / "pixels").unlink()
                (folder / "index").unlink()
        self._now = self._mapped(folder)

    def _mapped(self, folder: Path) -> _Mapped:
        """Map the two files of a folder; they are not removed as long as the index is mapped."""
        mapped = _Mapped(_none_of(self.keys))
        try:
            lock = (folder / "index").open("rb")
        except OSError:
            return mapped
        number = os.fstat(lock.fileno()).st_size // RECORD.itemsize
        if number == 0 or not locks(lock, alone=False):
            lock.close()
            return mapped
        with suppress(OSError):
            os.utime(folder)  # the time of its last use
        mapped.index = np.memmap(lock, RECORD, mode="r", shape=number)
        weakref.finalize(mapped.index, lock.close)
        with suppress(OSError, ValueError):  # none is kept
            mapped.pixels = np.memmap(folder / "pixels", np.uint8, mode="r")
        ends = mapped.index["offset"] + mapped.index["shape"].prod(axis=1, dtype=np.int64) * self.channels
        numbers = np.flatnonzero(_check(mapped.index) & (ends <= len(mapped.pixels)))
        mapped.end = int(ends[numbers].max(initial=0))
        order = np.argsort(self.keys)
        in_order, keys = self.keys[order], mapped.index["key"][numbers]
        places = np.minimum(np.searchsorted(in_order, keys), len(in_order) - 1)
        found = in_order[places] == keys
        mapped.slots = mapped.slots.copy()
        mapped.slots[order[places[found]]] = numbers[found]
        return mapped


def _none_of(keys: Keys) -> NDArray[np.int32]:
    return np.broadcast_to(np.int32(-1), len(keys))  # which takes no memory


def _checked(record: Record) -> bytes:
    record["check"] = _sum(record.reshape(1))[0]
    return record.tobytes()


def _check(records: NDArray[Any]) -> NDArray[np.bool_]:
    return np.asarray(records["check"] == _sum(records))


def _sum(records: NDArray[Any]) -> NDArray[np.uint32]:
    words = np.ascontiguousarray(records).view(np.uint32).reshape(len(records), -1)
    total: NDArray[np.uint32] = words[:, :-1].sum(axis=1, dtype=np.uint32)
    return ~total  # which is not zero where everything is
