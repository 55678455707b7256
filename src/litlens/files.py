"""Paths as a user gives them, files below a folder, writing a file in one step, disk errors, loading tensors safely."""

import contextlib
import errno
import os
import pickle
import re
import shutil
import uuid
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from litlens.errors import UserError


def user_path(path: str | Path | int) -> Path:
    """The path with `~` expanded. YAML reads a folder called 2024 as a number."""
    # Path.expanduser raises where the user after the ~ is unknown.
    return Path(os.path.expanduser(str(path)))  # noqa: PTH111


def is_system_file(name: str) -> bool:
    """Whether an operating system writes files or folders of this name next to images: Windows or macOS."""
    return name.lower() in ("thumbs.db", "desktop.ini", ".ds_store", "__macosx") or name.startswith("._")


def is_ignored(name: str) -> bool:
    """Whether a file or folder of this name is not meant: it is hidden, or of an operating system."""
    return name.startswith(".") or is_system_file(name)


def files_below(folder: Path, *, key: str) -> Iterator[str]:
    """The path of every file at any depth that is not ignored, broken links included.

    As strings: `Path` interns the name of each file, and the interpreter's table of such names never shrinks.

    Raises UserError, which begins with `key`, where a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"{key}: {error.filename} cannot be read ({error.strerror}): repair or remove it") from error

    visited: set[str] = set()
    for place, subfolders, files in os.walk(folder, followlinks=True, onerror=refuse):
        # A link to a folder above would be followed forever.
        visited.add(os.path.realpath(place))
        subfolders[:] = [
            name for name in subfolders if not is_ignored(name) and os.path.realpath(Path(place) / name) not in visited
        ]
        yield from (os.path.join(place, name) for name in files if not is_ignored(name))  # noqa: PTH118


def write_atomically(
    path: Path, content: str | bytes | Callable[[BinaryIO], object], *, keep: Path | None = None
) -> Path:
    """Write a file so that a reader sees the old content or the new, never a part, even after a power cut.

    Text is written as UTF-8. A file name within it that is not UTF-8 (surrogates, in Python) keeps its own bytes.
    A function writes into the open file. Missing folders are created. Returns `path`.

    Args:
        path: The file.
        content: What is written.
        keep: The path that the old file gets once the new one is complete.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        content = content.encode("utf-8", errors="surrogateescape")
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with partial.open("wb") as file:
            content(file) if callable(content) else file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.is_file():
            keep.unlink(missing_ok=True)
            try:
                os.link(path, keep)
            except OSError:  # a file system without hard links
                path.replace(keep)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not possible on Windows and some network file systems
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name
        finally:
            os.close(folder)
    return path


def copy_atomically(source: Path, path: Path) -> Path:
    """Copy a file in one step, as `write_atomically` does."""
    with source.open("rb") as file:
        return write_atomically(path, lambda target: shutil.copyfileobj(file, target))


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error means that the disk or the user's quota is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def disk_errors(what: object, *, elsewhere: str = "choose another folder") -> Iterator[None]:
    """Report errors that the user can fix (a full disk, a folder without write access) in one line.

    Args:
        what: What is being written, such as its path.
        elsewhere: How to write it to another place.
    """
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise UserError(f"no space is left for {what}: make room, or {elsewhere}") from error
        raise UserError(f"cannot write {what} ({error.strerror or error}): {elsewhere}") from error


def load_tensors(path: Path, *, kind: str) -> Any:
    """Load what `torch.save` wrote onto the CPU: tensors and plain values only, nothing in the file is executed.

    The CRCs of the archive are verified first: torch writes them and never looks. Files of torch before 1.6 have none.

    Raises UserError, in one line, where the file is missing, unreadable, damaged, or holds anything else. `kind` is
    what it should be: a checkpoint.
    """
    import torch  # the help of the commands comes before it is imported

    try:
        with path.open("rb") as file:
            if file.read(4) == b"PK\x03\x04" or zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as archive:
                    if damaged := archive.testzip():
                        raise UserError(f"{path} is damaged: the checksum of {damaged} in it is wrong")
                    if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                        raise UserError(f"{path} is a TorchScript program and not a {kind}: nothing in it has run")
            file.seek(0)
            with warnings.catch_warnings():
                # Of a file that is not a pickle: its second byte, read as a pickle's version.
                warnings.filterwarnings("ignore", message="Detected pickle protocol")
                return torch.load(file, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"there is no {kind} at {path}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        # torch's own words would advise to load it all the same, whatever is wrong.
        if re.search(r"unsupported (global|class)", str(error), flags=re.IGNORECASE):
            raise UserError(
                f"{path} holds more than tensors and plain values: it was not loaded, and nothing in it has run"
            ) from error
        raise UserError(f"{path} is damaged or not a {kind}") from error
    # Of bytes that are not a pickle, the unpickler raises whatever it comes across: IndexError, struct.error, KeyError.
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"{path} is damaged or not a {kind}: {reason}") from error
