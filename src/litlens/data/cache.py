"""Arrays worth keeping between runs: npy files in one folder, mapped into memory and never pickled."""

import contextlib
import errno
import hashlib
import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from litlens.errors import UserError

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


def cached_array(key: str, build: Callable[[], NDArray[Any]], *, owner: str | None = None) -> "np.memmap[Any, Any]":
    """The array that `build` makes, or made in an earlier run: read-only, and shared between processes.

    Args:
        key: Says what the array was made of: a digest of the files and of all settings that it depends on.
        build: Called where there is no cache under this key, or only a damaged one. Any dtype but object.
        owner: The data set and the settings that stay when its files change. Writing a cache removes the
            others of its owner, which nobody will ask for again.

    Raises:
        UserError: The cache folder cannot be written, or its disk is full. Nothing half written is left.
    """

    def write(path: Path) -> None:
        array = build()
        with disk_errors(), path.open("wb") as file:
            np.save(file, array, allow_pickle=False)
            _to_disk(file.fileno())

    return _cached(key, owner=owner, write=write)


def filled_array(
    key: str,
    fill: Callable[[NDArray[Any]], None],
    *,
    shape: tuple[int, ...],
    dtype: DTypeLike,
    owner: str | None = None,
) -> "np.memmap[Any, Any]":
    """As `cached_array`, for what need not fit into memory: `fill` is given an array of zeros on the disk."""

    def write(path: Path) -> None:
        with disk_errors():
            array = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
            _reserve(path)
        fill(array)
        array.flush()
        del array
        with disk_errors(), path.open("rb+") as file:
            _to_disk(file.fileno())

    return _cached(key, owner=owner, write=write)


def _cached(key: str, *, owner: str | None, write: Callable[[Path], None]) -> "np.memmap[Any, Any]":
    name = key if owner is None else f"{owner}.{key}"
    path = cache_folder() / f"{name}.npy"
    array = mapped_array(path)
    if array is not None:
        return array
    with disk_errors():
        path.parent.mkdir(parents=True, exist_ok=True)
    # Each process writes a file of its own and renames it: two at once do the work twice and both get it
    # whole.
    unfinished = path.with_name(f".{name}.{uuid.uuid4().hex}.tmp")
    try:
        write(unfinished)
        with disk_errors():
            unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    _clear(path.parent, owner=owner, keep=path)
    array = mapped_array(path)
    if array is None:
        raise RuntimeError(f"the cache {path} cannot be read though it was just written")
    return array


def mapped_array(path: Path) -> "np.memmap[Any, Any] | None":
    """The array in a complete file, or None where the file is missing or damaged."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        complete = isinstance(array, np.memmap) and path.stat().st_size == array.offset + array.nbytes
    # numpy reports a damaged header as ValueError, SyntaxError, tokenize's errors and others, by version.
    except Exception:
        return None
    return array if complete else None


def _clear(folder: Path, *, owner: str | None, keep: Path) -> None:
    stale = [path for path in folder.glob(f"{owner}.*.npy") if path != keep] if owner else []
    # What a killed process left; nobody writes for a day.
    stale += [path for path in folder.glob(".*.tmp") if _age(path) > _SECONDS_A_DAY]
    for path in stale:
        # In use on Windows, or not ours: the next writer tries again.
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def _reserve(path: Path) -> None:
    """Take the disk space of a sparse file now: on a full disk, a write to the map would kill the process."""
    if hasattr(os, "posix_fallocate"):
        with path.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _to_disk(descriptor: int) -> None:
    # Else a power cut may leave a file of the right name and size full of zeros.
    os.fsync(descriptor)


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """Turn what the user can fix (a full disk, a folder that cannot be written) into one line."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "no space is left for" if full else f"cannot write ({error.strerror or error})"
        raise UserError(
            f"{what} the cache in {cache_folder()}; make room, or set LITLENS_CACHE to another folder"
        ) from error
