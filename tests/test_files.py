"""A file is written in one step."""

import errno
import os
from pathlib import Path

import pytest

from litlens.errors import UserError
from litlens.files import disk_errors, write_atomically


def test_the_folder_is_created_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = write_atomically(tmp_path / "new" / "a.txt", "é\n")
    write_atomically(path, b"later")
    assert path.read_bytes() == b"later"
    assert [file.name for file in path.parent.iterdir()] == ["a.txt"]


def test_names_that_are_not_utf8_keep_their_bytes(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    assert write_atomically(tmp_path / "a", name).read_bytes() == b"caf\xe9"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_atomically(tmp_path / "a", "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "no space is left for the cache: make room, or set CACHE to another folder"),
        (errno.EDQUOT, "no space is left for the cache: make room, or set CACHE to another folder"),
        (errno.EROFS, "cannot write the cache (Read-only file system): set CACHE to another folder"),
    ],
)
def test_what_the_disk_refuses_is_one_line(number: int, message: str) -> None:
    with pytest.raises(UserError) as caught, disk_errors("the cache", elsewhere="set CACHE to another folder"):
        raise OSError(number, os.strerror(number))
    assert str(caught.value) == message
