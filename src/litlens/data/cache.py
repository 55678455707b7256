"""What is kept between runs, in one folder: npy files, mapped into memory and never pickled, and the rules for all."""

import hashlib
import json
import logging
import math
import os
import re
import shutil
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from litlens import files
from litlens.errors import UserError

try:
    import fcntl
except ImportError:  # Windows, which removes no file that is in use
    fcntl = None  # type: ignore[assignment]

Mapped: TypeAlias = np.memmap[Any, Any]
_SECONDS_A_DAY = 86_400
# What is kept, by name. The folder may be a user's own: nothing else in it is ever removed.
_OURS = re.compile(r"[a-z]+(-[a-z]+)?-[0-9a-f]{32}(\.[0-9a-f]{32})?\.npy|(features|images)-[0-9a-f]{32}")
_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """The folder that caches are written to; it may not exist yet.

    `LITLENS_CACHE`, or `litlens` in the user's cache folder. Where that cannot be written, a folder in the system's
    temporary one, which is said once.
    """
    return _writable(_chosen_folder())


def cache_folders() -> list[Path]:
    """The folders that caches are read from: the chosen one, even if it cannot be written, and `cache_folder`."""
    return list(dict.fromkeys([_chosen_folder(), cache_folder()]))


def clear_cache() -> int:
    """Remove all caches that no process uses. The next run makes them again.

    Returns the number of bytes that became free.
    """
    return sum(remove(path) for folder in cache_folders() for _, _, path in _kept(folder))


def digest(values: Any) -> str:
    """A short digest of plain values, for the key of a cache: the same in every run for equal values."""
    return hashlib.blake2b(json.dumps(values).encode(), digest_size=16).hexdigest()


def file_state(path: str | Path) -> tuple[int, int, int]:
    """Size, modification time and change time of a file, which change with its content.

    `cp -p` over a file keeps the modification time, but not the change time.
    """
    at = os.stat(path)  # noqa: PTH116  (for a million files, making a Path of each takes longer)
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
    return _once(key, owner, lambda path: _written(path, build()))


def mapped_array(path: Path) -> Mapped | None:
    """The array in a complete file, or None if the file is missing or damaged.

    As long as the array or a view of it exists, the file is locked against removal.
    """
    with ExitStack() as lock:
        try:
            file = lock.enter_context(path.open("rb"))
            if not locks(file, alone=False):
                return None  # it is being removed
            array: Mapped = np.load(path, mmap_mode="r", allow_pickle=False)
            state = path.stat()
            complete = isinstance(array, np.memmap) and state.st_size == array.offset + array.nbytes
            if not (complete and os.path.samestat(state, os.fstat(file.fileno()))):
                return None
        # NumPy reports a damaged header by ValueError, SyntaxError, errors of tokenize and others, by version.
        except Exception:
            return None
        with suppress(OSError):
            os.utime(path)  # the time of its last use
        if fcntl is not None:
            weakref.finalize(array, lock.pop_all().close)
        return array


@contextmanager
def one_process(lock: Path) -> Iterator[None]:
    """Let one process of a machine compute; the others wait at `lock` and then find everything there."""
    file = _waited_for(lock)
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes no open file
            lock.unlink()
        file.close()  # which gives the lock back


def limit_size() -> None:
    """Remove what was not used for longest until all caches fit into `LITLENS_CACHE_GB`, if that is set."""
    folder, limit = cache_folder(), cache_limit()
    for path in folder.glob(".*.part"):
        # No process writes for a day: an older temporary file is from a killed one.
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _SECONDS_A_DAY:
                path.unlink()
    if limit < math.inf:
        kept = sorted(_kept(folder))
        total = sum(size for _, size, _ in kept)
        for _, _, path in kept:
            if total <= limit:
                break
            total -= remove(path)


def cache_limit() -> float:
    """The bytes that all caches may have: `LITLENS_CACHE_GB`, or infinity."""
    given = os.environ.get("LITLENS_CACHE_GB", "inf")
    try:
        limit = float(given)
    except ValueError:
        limit = math.nan
    if not limit >= 0:
        raise UserError(f"LITLENS_CACHE_GB: '{given}' is not a number of gigabytes: give one, such as 20")
    return limit * 1e9


def remove(path: Path) -> int:
    """Remove a file or folder of the cache unless a process uses it; returns the number of bytes."""
    size = 0
    try:
        with ExitStack() as held:
            for part in sorted(path.iterdir()) if path.is_dir() else [path]:
                size += part.stat().st_size
                # A network share locks alone only what is open for writing.
                if fcntl is not None and not locks(held.enter_context(part.open("rb+")), alone=True):
                    return 0
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    except OSError:  # removed by another process, another user's, or in use on Windows
        return 0
    return size


def locks(file: IO[bytes], *, alone: bool) -> bool:
    """Lock an open file without waiting, for this process alone or with others; False where another one has it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: what was used within a day may be in use
        return not alone or time.time() - os.fstat(file.fileno()).st_mtime > _SECONDS_A_DAY
    return True


def disk_errors() -> AbstractContextManager[None]:
    """Turn what the user can fix (a full disk, a folder that cannot be written) into one line."""
    return files.disk_errors(f"the cache in {cache_folder()}", elsewhere="set LITLENS_CACHE to another folder")


def _chosen_folder() -> Path:
    if chosen := os.environ.get("LITLENS_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "litlens"


@lru_cache
def _writable(folder: Path) -> Path:
    """The folder, or one in the temporary folder where it cannot be written."""
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))  # noqa: PTH110
    try:
        with tempfile.TemporaryFile(dir=existing):  # permissions do not tell: think of root, and of network shares
            return folder
    except OSError as error:
        if files.is_disk_full(error):
            return folder  # reported when it is written to
        reason = error.strerror
    user = f"-{os.getuid()}" if hasattr(os, "getuid") else ""
    elsewhere = Path(tempfile.gettempdir()) / f"litlens{user}"
    with files.disk_errors(elsewhere, elsewhere="set LITLENS_CACHE to a folder that can be written"):
        elsewhere.mkdir(mode=0o700, exist_ok=True)
        if user and elsewhere.lstat().st_uid != os.getuid():  # somebody else's: never read
            elsewhere = Path(tempfile.mkdtemp(prefix="litlens-"))
    if os.environ.get("LOCAL_RANK", "0") == "0":
        _log.warning(
            f"the cache folder {folder} cannot be written ({reason}): {elsewhere} is used; set LITLENS_CACHE to choose "
            "another"
        )
    return elsewhere


def _kept(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """Time of last use, bytes and path of every cache in a folder."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if _OURS.fullmatch(path.name):
            with suppress(OSError):  # removed by another process
                parts = path.iterdir() if path.is_dir() else [path]
                size = sum(part.stat().st_size for part in parts)
                yield path.stat().st_mtime, size, path


def _once(key: str, owner: str | None, write: Callable[[Path], Mapped]) -> Mapped:
    """The array that is kept, or that `write` puts at a path; then make room."""
    name = f"{key if owner is None else f'{owner}.{key}'}.npy"
    for folder in cache_folders():
        if (found := mapped_array(folder / name)) is not None:
            return found
    cache_limit()  # so that a mistake in it is reported before the work
    path = cache_folder() / name
    with one_process(path.with_name(f".{path.stem}.lock")):
        if (found := mapped_array(path)) is None:
            found = write(path)
    for other in path.parent.glob(f"{owner}.*.npy") if owner else ():
        if other != path:
            remove(other)
    limit_size()
    return found


def _written(path: Path, array: NDArray[Any]) -> Mapped:
    """Write a file that appears complete or not at all, and is not removed before it is mapped."""
    array = np.asarray(array, order="C")
    with ExitStack() as lock:

        def write(file: BinaryIO) -> None:
            # np.save does not say that the disk is full.
            npy: Any = np.lib.format  # has no types before NumPy 2.4
            npy.write_array_header_1_0(file, npy.header_data_from_array_1_0(array))
            file.write(array.reshape(-1).view(np.uint8).data)
            if fcntl is not None:  # a lock of the open file, not of its descriptor: it lasts until both are closed
                locks(lock.enter_context(os.fdopen(os.dup(file.fileno()), "rb")), alone=False)

        with disk_errors():
            files.write_atomically(path, write)
        found = mapped_array(path)
    if found is None:
        raise RuntimeError(f"the cache {path} cannot be read though it was just written")
    return found


def _waited_for(lock: Path) -> IO[bytes]:
    """The lock's open file, locked for this process alone."""
    while True:
        with disk_errors():
            lock.parent.mkdir(parents=True, exist_ok=True)
            try:
                file = lock.open("ab")
            except FileNotFoundError:  # the folder was removed again
                continue
        if fcntl is None:
            return file
        if not locks(file, alone=True):
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(lock.stat(), os.fstat(file.fileno())):
                return file
        file.close()  # of the process before, which has removed it
