"""Arrays that are kept between runs: npy files in one folder, mapped into memory and never pickled."""

import contextlib
import hashlib
import json
import os
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from litlens import files

Mapped: TypeAlias = np.memmap[Any, Any]
_SECONDS_A_DAY = 86_400


def cache_folder() -> Path:
    """The folder of caches: `LITLENS_CACHE`, or `litlens` in the user's cache folder. It may not exist yet."""
    if chosen := os.environ.get("LITLENS_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "litlens"


def digest(values: Any) -> str:
    """A short digest of plain values, for the key of a cache: the same in every run for equal values."""
    return hashlib.blake2b(json.dumps(values).encode(), digest_size=16).hexdigest()


def file_state(path: Path) -> tuple[int, int, int]:
    """Size, modification time and change time of a file, which change with its content.

    `cp -p` over a file keeps the modification time, but not the change time.
    """
    at = path.stat()
    return at.st_size, at.st_mtime_ns, at.st_ctime_ns


def cached_array(key: str, build: Callable[[], NDArray[Any]], *, owner: str | None = None) -> Mapped:
    """Return the array that `build` makes or made in an earlier run: read-only, and shared between processes.

    Args:
        key: A digest of the files and of all settings that the array depends on.
        build: Called if there is no cache with this key, or only a damaged one. Any dtype but object.
        owner: A digest of the data set and of the settings, without its files. Writing a cache removes the
            others of its owner, which are out of date.

    Raises:
        UserError: The cache folder cannot be written, or its disk is full. No partial file is left.
    """
    if (found := mapped_array(_path(key, owner))) is not None:
        return found
    array = build()
    return filled_array(
        key, lambda table, _: np.copyto(table, array), shape=array.shape, dtype=array.dtype, owner=owner
    )


def filled_array(
    key: str,
    fill: Callable[[NDArray[Any], NDArray[Any]], None],
    *,
    shape: tuple[int, ...],
    dtype: DTypeLike,
    owner: str | None = None,
) -> Mapped:
    """Like `cached_array`, for an array that may not fit into memory and can reuse parts of an earlier one.

    `fill` is called with an array of zeros on the disk, and with the owner's array of the same dtype and another key,
    an empty one if there is none.
    """
    path = _path(key, owner)
    if (found := mapped_array(path)) is not None:
        return found
    # Each process writes its own file and renames it: two at once do the work twice, and both get a complete file.
    unfinished = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.tmp")
    with disk_errors():
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with disk_errors():
            array = np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.dtype(dtype), shape=shape)
            _reserve(unfinished)
        fill(array, _earlier(path.parent, owner=owner, dtype=array.dtype))
        array.flush()
        del array
        with disk_errors(), unfinished.open("rb+") as file:
            os.fsync(file.fileno())  # otherwise a power cut may leave a file of zeros
        with disk_errors():
            unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    _clear(path.parent, owner=owner, keep=path)
    if (found := mapped_array(path)) is None:
        raise RuntimeError(f"the cache {path} cannot be read though it was just written")
    return found


def mapped_array(path: Path) -> Mapped | None:
    """The array in a complete file, or None if the file is missing or damaged."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        complete = isinstance(array, np.memmap) and path.stat().st_size == array.offset + array.nbytes
    # NumPy reports a damaged header by ValueError, SyntaxError, errors of tokenize and others, by version.
    except Exception:
        return None
    return array if complete else None


def disk_errors() -> AbstractContextManager[None]:
    """Turn what the user can fix (a full disk, a folder that cannot be written) into one line."""
    return files.disk_errors(f"the cache in {cache_folder()}", elsewhere="set LITLENS_CACHE to another folder")


def _path(key: str, owner: str | None) -> Path:
    return cache_folder() / f"{key if owner is None else f'{owner}.{key}'}.npy"


def _earlier(folder: Path, *, owner: str | None, dtype: np.dtype[Any]) -> NDArray[Any]:
    for path in folder.glob(f"{owner}.*.npy") if owner else ():
        if (found := mapped_array(path)) is not None and found.dtype == dtype:
            return found
    return np.empty(0, dtype)


def _clear(folder: Path, *, owner: str | None, keep: Path) -> None:
    stale = [path for path in folder.glob(f"{owner}.*.npy") if path != keep] if owner else []
    for path in [*stale, *folder.glob(".*.tmp")]:
        # A file may be in use on Windows, or another user's.
        with contextlib.suppress(OSError):
            # No process writes for a day: an older temporary file is from a killed one.
            if path.suffix == ".npy" or time.time() - path.stat().st_mtime > _SECONDS_A_DAY:
                path.unlink()


def _reserve(path: Path) -> None:
    """Reserve the disk space of a sparse file: on a full disk, a write to the mapped file would kill the process."""
    if hasattr(os, "posix_fallocate"):
        with path.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
