"""Arrays worth keeping between runs: npy files in one folder, mapped into memory and never pickled."""

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
    """Where caches live: `LITLENS_CACHE`, or `litlens` in the user's cache folder. It need not exist yet."""
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
    """A short name of plain values, for the key of a cache: equal values, equal names, in any run."""
    return hashlib.blake2b(json.dumps(values).encode(), digest_size=16).hexdigest()


def file_state(path: Path) -> tuple[int, int, int]:
    """What of a file changes with its content, without reading it: size, and times of modification and of any change.

    `cp -p` over a file keeps its time of modification, but not that of its last change.
    """
    at = path.stat()
    return at.st_size, at.st_mtime_ns, at.st_ctime_ns


def cached_array(key: str, build: Callable[[], NDArray[Any]], *, owner: str | None = None) -> Mapped:
    """The array that `build` makes, or made in an earlier run: read-only, and shared between processes.

    Args:
        key: Says what the array was made of: a digest of the files and of all settings that it depends on.
        build: Called where there is no cache under this key, or only a damaged one. Any dtype but object.
        owner: The data set and the settings that stay when its files change. Writing a cache removes the
            others of its owner, which nobody will ask for again.

    Raises:
        UserError: The cache folder cannot be written, or its disk is full. Nothing half written is left.
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
    """As `cached_array`, for what need not fit into memory and is made in part from what an earlier run made.

    `fill` is given an array of zeros on the disk, and the owner's array of this dtype under another key; an empty one
    where there is none.
    """
    path = _path(key, owner)
    if (found := mapped_array(path)) is not None:
        return found
    # Each process writes a file of its own and renames it: two at once do the work twice and both get it complete.
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
            os.fsync(file.fileno())  # else a power cut may leave a file of the right name and size full of zeros
        with disk_errors():
            unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    _clear(path.parent, owner=owner, keep=path)
    if (found := mapped_array(path)) is None:
        raise RuntimeError(f"the cache {path} cannot be read though it was just written")
    return found


def mapped_array(path: Path) -> Mapped | None:
    """The array in a complete file, or None where the file is missing or damaged."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        complete = isinstance(array, np.memmap) and path.stat().st_size == array.offset + array.nbytes
    # numpy reports a damaged header as ValueError, SyntaxError, tokenize's errors and others, by version.
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
        # In use on Windows, or not ours: the next writer tries again.
        with contextlib.suppress(OSError):
            # Nobody writes for a day: what a killed process left.
            if path.suffix == ".npy" or time.time() - path.stat().st_mtime > _SECONDS_A_DAY:
                path.unlink()


def _reserve(path: Path) -> None:
    """Take the disk space of a sparse file now: on a full disk, a write to the map would kill the process."""
    if hasattr(os, "posix_fallocate"):
        with path.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
