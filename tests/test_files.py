"""A file is written in one step."""

import os
from pathlib import Path

import pytest

from litlens.files import write_atomically


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
