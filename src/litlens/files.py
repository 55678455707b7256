"""Paths as a user gives them, and writing a file in one step."""

import os
import uuid
from pathlib import Path


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
