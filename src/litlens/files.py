"""Paths as a user gives them, writing a file in one step, and what a disk that cannot be written means."""

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from litlens.errors import UserError


def user_path(path: str | Path | int) -> Path:
    """The path with `~` expanded. YAML reads a folder called 2024 as a number."""
    # Path.expanduser raises where the user after the ~ is unknown.
    return Path(os.path.expanduser(str(path)))  # noqa: PTH111


def write_atomically(path: Path, content: str | bytes) -> Path:
    """Write a file so that a reader sees the old content or the new, never a part, even after a power cut.

    Text is written as UTF-8. A file name within it that is not UTF-8 (surrogates, in Python) keeps its own bytes.
    Missing folders are created. Returns `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        content = content.encode("utf-8", errors="surrogateescape")
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def is_disk_full(error: BaseException) -> bool:
    """Whether an error means that no space, or no quota of it, is left."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def disk_errors(what: object, *, elsewhere: str = "choose another folder") -> Iterator[None]:
    """Turn what the user can fix (a full disk, a folder that cannot be written) into one line.

    Args:
        what: What is written, such as its path.
        elsewhere: How to write it to another place.
    """
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise UserError(f"no space is left for {what}: make room, or {elsewhere}") from error
        raise UserError(f"cannot write {what} ({error.strerror or error}): {elsewhere}") from error
