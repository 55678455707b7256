"""Decode each image file once, to the network's size, into a table on disk that processes share."""

import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray

from litlens.data.cache import Mapped, digest, file_state, filled_array
from litlens.data.decode import BadImage, ValueRange, decode_image, read_file
from litlens.data.preprocessing import Pixels, Resize, ResizeMode
from litlens.data.progress import progress
from litlens.data.split import HASH_BYTES, content_hash
from litlens.errors import UserError

# Increased when decoding or the table changes, so that older caches are not used.
_VERSION = 5
_REASON_BYTES = 160


@dataclass(eq=False)
class FileImages:
    """Images in files: at the network's size from a mapped table, originals from their files."""

    table: Mapped
    files: list[Path]
    names: list[str]
    channels: int
    value_range: ValueRange | None

    def batch(self, rows: NDArray[np.int64]) -> Pixels:
        """Images at the network's size: uint8 (B, H, W, C)."""
        return np.asarray(self.table["pixels"][rows])

    def original(self, row: int) -> Pixels:
        """One image decoded from its file: uint8 (h, w, C). Raises BadImage where the file is no longer the same."""
        name = self.names[row]
        content = read_file(self.files[row], name=name)
        changed = tuple(self.table["stat"][row]) != _stat(self.files[row])  # or was only copied, or linked
        if changed and content_hash("file", content) != self.hashes(np.array([row]))[0]:
            raise BadImage(name, "the file has changed since the start of the run")
        pixels, _ = decode_image(content, name=name, channels=self.channels, value_range=self.value_range)
        return pixels

    def sizes(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Heights and widths of the originals: (B, 2)."""
        return np.asarray(self.table["size"][rows], dtype=np.int64)

    def hashes(self, rows: NDArray[np.int64]) -> list[str]:
        """The hash of each file's bytes; empty of a file that could not be read."""
        return [found.decode() for found in self.table["hash"][rows].tolist()]

    @property
    def reasons(self) -> list[str]:
        """Why each file is not a complete image; empty for a complete one. Rows of bad files are black."""
        return [reason.decode() for reason in self.table["reason"].tolist()]

    @property
    def values(self) -> ValueRange | None:
        """The lowest and the highest value of all files of more than 8 bits; None without such files."""
        ranges = self.table["values"][self.table["values"][:, 1] > 0]
        return (float(ranges[:, 0].min()), float(ranges[:, 1].max())) if len(ranges) else None

    def __getstate__(self) -> dict[str, Any]:
        # A mapped array is pickled with all its pixels; a worker process maps the file again instead.
        return {**self.__dict__, "table": str(self.table.filename)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({**state, "table": np.load(state["table"], mmap_mode="r", allow_pickle=False)})


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
    """Decode files in threads, those that the cache does not have with the same name, size and times.

    `owner` is the folder or the CSV that lists the files; its new table replaces the old one.

    Raises:
        UserError: A file exists but could not be read, or it changed meanwhile; the cache stays as it was.
    """
    versions = [_VERSION, PIL.__version__, find_spec("pillow_heif") is not None]
    stats = [_stat(file) for file in files]
    states = [digest([*versions, name, *stat]) for name, stat in zip(names, stats, strict=True)]
    resize = Resize(size, resize_mode)

    def fill(table: NDArray[Any], earlier: NDArray[Any]) -> None:
        table["state"] = states
        table["stat"] = np.array(stats).reshape(-1, 3)
        known = {state: row for row, state in enumerate(earlier["state"].tolist())}
        missing = []
        for row, state in enumerate(table["state"].tolist()):
            if state in known:
                table[row] = earlier[known[state]]
            else:
                missing.append(row)

        def decode(row: int) -> None:
            try:
                content = read_file(files[row], name=names[row])
                table["hash"][row] = content_hash("file", content).encode()
                pixels, values = decode_image(content, name=names[row], channels=channels, value_range=value_range)
            except BadImage as error:
                if error.temporary:
                    # In the cache as a bad image, it would be left out although the next try may read it.
                    raise UserError(f"{files[row]} cannot be read ({error.reason}): repair or remove it") from error
                table["reason"][row] = _clipped(error.reason)
            else:
                table["size"][row] = pixels.shape[:2]
                table["pixels"][row] = resize(pixels)
                table["values"][row] = values or (0, 0)
            if _stat(files[row]) != stats[row]:
                raise UserError(f"{files[row]} was changed or removed while it was read: start again")

        _for_each(decode, missing, description=f"Decoding {owner.name}")

    table = filled_array(
        digest(states),
        fill,
        shape=(len(files),),
        dtype=[
            ("pixels", np.uint8, (*size, channels)),
            ("size", np.int32, (2,)),
            ("values", np.float64, (2,)),
            ("reason", f"S{_REASON_BYTES}"),
            ("state", "S32"),
            ("stat", np.int64, (3,)),
            ("hash", f"S{HASH_BYTES}"),
        ],
        owner=f"files-{digest([os.path.realpath(owner), size, channels, resize_mode, value_range])}",
    )
    return FileImages(table, files=files, names=names, channels=channels, value_range=value_range)


def _for_each(work: Callable[[int], None], rows: list[int], *, description: str) -> None:
    """Run `work` for each row in threads (Pillow decodes without holding the GIL), with a progress bar."""
    pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))
    try:
        with warnings.catch_warnings():
            # Pillow warns about damaged EXIF data, which `decode_image` handles.
            warnings.filterwarnings("ignore", module=r"PIL\.")
            for _ in progress(pool.map(work, rows), description=description, total=len(rows)):
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
