"""Decode image files once, to the network's size, into a table on disk that processes share."""

import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray

from litlens.data.cache import digest, file_state, filled_array
from litlens.data.decode import BadImage, UnreadableImage, ValueRange, decode_image
from litlens.data.preprocessing import Pixels, Resize, ResizeMode
from litlens.data.progress import progress
from litlens.errors import UserError

# Counted up when the decoding or the table changes, so that an older cache is not read as a new one.
_VERSION = 3
_REASON_BYTES = 160


class FileImages:
    """Images in files: at the network's size from a mapped cache, the originals from their files."""

    def __init__(
        self,
        table: "np.memmap[Any, Any]",
        *,
        files: list[Path],
        names: list[str],
        channels: int,
        value_range: ValueRange | None,
    ) -> None:
        self._table = table
        self._files = files
        self._names = names
        self._channels = channels
        self._value_range = value_range

    def batch(self, rows: NDArray[np.int64]) -> Pixels:
        """Images at the network's size: uint8 (B, H, W, C)."""
        return np.asarray(self._table["pixels"][rows])

    def original(self, row: int) -> Pixels:
        """One image decoded from its file: uint8 (h, w, C)."""
        return decode_image(
            self._files[row], name=self._names[row], channels=self._channels, value_range=self._value_range
        ).pixels

    def sizes(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Heights and widths of the originals: (B, 2)."""
        return np.asarray(self._table["size"][rows], dtype=np.int64)

    @property
    def reasons(self) -> list[str]:
        """Why each file is not a complete image; empty where it is one. Rows of bad files are black."""
        return [reason.decode() for reason in self._table["reason"].tolist()]

    @property
    def values(self) -> ValueRange | None:
        """The lowest and the highest value over all files of more than 8 bits; None where there are no such files."""
        ranges = self._table["values"][self._table["values"][:, 1] > 0]
        return (float(ranges[:, 0].min()), float(ranges[:, 1].max())) if len(ranges) else None

    def __getstate__(self) -> dict[str, Any]:
        # A mapped array would be pickled with all its pixels; a worker maps the file itself.
        return {**self.__dict__, "_table": str(self._table.filename)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({**state, "_table": np.load(state["_table"], mmap_mode="r", allow_pickle=False)})


def decode_files(
    files: list[Path],
    *,
    names: list[str],
    size: tuple[int, int],
    channels: int,
    resize_mode: ResizeMode,
    owner: Path,
    value_range: ValueRange | None = None,
) -> FileImages:
    """Decode files in threads, or take the cache where their names, sizes and times have not changed.

    `owner` is the folder or table that lists them: a new cache of it takes the place of the old one.

    Raises:
        UserError: A file that exists could not be read; nothing is kept.
    """
    settings = [size, channels, resize_mode, value_range]
    stats = [(name, *_stat(file)) for name, file in zip(names, files, strict=True)]
    resize = Resize(size, resize_mode)

    def fill(table: NDArray[Any]) -> None:
        def decode(index: int) -> None:
            try:
                decoded = decode_image(files[index], name=names[index], channels=channels, value_range=value_range)
            except UnreadableImage as error:
                # Kept as a bad image, it would be left out forever, though the next try may read it.
                raise UserError(f"{files[index]} cannot be read ({error.reason}): repair or remove it") from error
            except BadImage as error:
                table["reason"][index] = _clipped(error.reason)
            else:
                table["size"][index] = decoded.pixels.shape[:2]
                table["pixels"][index] = resize(decoded.pixels)
                table["values"][index] = decoded.values or (0, 0)

        _for_each(decode, count=len(files), description=f"Decoding {owner.name}")

    table = filled_array(
        digest([_VERSION, PIL.__version__, find_spec("pillow_heif") is not None, stats]),
        fill,
        shape=(len(files),),
        dtype=[
            ("pixels", np.uint8, (*size, channels)),
            ("size", np.int32, (2,)),
            ("values", np.float64, (2,)),
            ("reason", f"S{_REASON_BYTES}"),
        ],
        owner=f"files-{digest([os.path.realpath(owner), settings])}",
    )
    return FileImages(table, files=files, names=names, channels=channels, value_range=value_range)


def _for_each(work: Callable[[int], None], *, count: int, description: str) -> None:
    """Do the work for 0, 1, … in threads (Pillow decodes outside Python's lock), under a progress bar."""
    pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))
    try:
        with warnings.catch_warnings():
            # About EXIF blocks: their effects are checked and reported as errors.
            warnings.filterwarnings("ignore", module=r"PIL\.")
            for _ in progress(pool.map(work, range(count)), description=description, total=count):
                pass
    finally:
        pool.shutdown(cancel_futures=True)


def _stat(file: Path) -> tuple[int, int, int]:
    try:
        return file_state(file)
    except OSError:
        return -1, -1, -1


def _clipped(reason: str) -> bytes:
    return reason.encode("ascii", "replace")[:_REASON_BYTES] or b"unknown"
