import errno
import multiprocessing
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from litlens.data.cache import cache_folder, cached_array, filled_array
from litlens.errors import UserError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LITLENS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def not_again() -> np.ndarray:
    raise AssertionError("built twice")


def test_built_once_and_mapped(folder: Path) -> None:
    expected = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(cached_array("key", lambda: expected), expected)
    again = cached_array("key", not_again)
    np.testing.assert_array_equal(again, expected)
    assert isinstance(again, np.memmap)
    assert not again.flags.writeable
    assert [path.name for path in folder.iterdir()] == ["key.npy"]


def test_filled_in_place(folder: Path) -> None:
    dtype = [("pixels", np.uint8, (2, 2)), ("reason", "S8")]

    def fill(table: np.ndarray, earlier: np.ndarray) -> None:
        assert len(earlier) == 0
        table["pixels"][1] = 7
        table["reason"][0] = b"broken"

    for _ in range(2):
        table = filled_array("key", fill, shape=(3,), dtype=dtype)
        assert table["pixels"].sum(axis=(1, 2)).tolist() == [0, 28, 0]
        assert table["reason"].tolist() == [b"broken", b"", b""]


@pytest.mark.parametrize("damage", ["short", "long", "header", "empty", "pickle"])
def test_a_damaged_file_is_built_again(folder: Path, damage: str) -> None:
    expected = np.arange(1000)
    cached_array("key", lambda: expected)
    path = folder / "key.npy"
    data = path.read_bytes()
    if damage == "pickle":
        np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    else:
        damaged = {"short": data[:-1], "long": data + b"\0", "header": b"\0" * len(data), "empty": b""}
        path.write_bytes(damaged[damage])
    np.testing.assert_array_equal(cached_array("key", lambda: expected), expected)
    assert path.read_bytes() == data


def test_a_new_cache_takes_the_place_of_its_owners_old_one(folder: Path) -> None:
    for key, owner in (("1", "cats"), ("1", "dogs"), ("2", "cats"), ("plain", None)):
        cached_array(key, lambda: np.zeros(1), owner=owner)
    assert sorted(path.name for path in folder.iterdir()) == ["cats.2.npy", "dogs.1.npy", "plain.npy"]


def test_a_new_cache_is_filled_from_its_owners_old_one(folder: Path) -> None:
    found = []
    for key, owner, dtype in (("1", "a", np.uint8), ("2", "b", np.uint8), ("3", "a", np.int64), ("4", "a", np.int64)):
        filled_array(
            key, lambda table, earlier: found.append(earlier.tolist()), shape=(int(key),), dtype=dtype, owner=owner
        )
    assert found == [[], [], [], [0, 0, 0]]  # neither another owner's nor one of another dtype


def test_a_file_of_a_killed_process_is_removed_after_a_day(folder: Path) -> None:
    folder.mkdir()
    for name, age in ((".old.tmp", 2), (".new.tmp", 0)):
        (folder / name).touch()
        os.utime(folder / name, (time.time() - age * 86_400,) * 2)
    cached_array("key", lambda: np.zeros(1))
    assert sorted(path.name for path in folder.iterdir()) == [".new.tmp", "key.npy"]


def test_a_failing_build_leaves_nothing(folder: Path) -> None:
    def fill(table: np.ndarray, earlier: np.ndarray) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        filled_array("key", fill, shape=(3,), dtype=np.uint8)
    assert list(folder.iterdir()) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match=r"no space is left.*LITLENS_CACHE"):
        cached_array("key", lambda: np.zeros(3))
    assert list(folder.iterdir()) == []


def _write(folder: str, barrier: object, results: object) -> None:
    os.environ["LITLENS_CACHE"] = folder
    barrier.wait()  # type: ignore[attr-defined]
    array = cached_array("key", lambda: np.arange(1_000_000))
    results.put(int(array.sum()))  # type: ignore[attr-defined]


def test_two_processes_at_once(folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    writers = [context.Process(target=_write, args=(str(folder), barrier, results)) for _ in range(2)]
    for writer in writers:
        writer.start()
    assert [results.get(timeout=60) for _ in writers] == [999_999 * 500_000] * 2
    for writer in writers:
        writer.join()
    assert [path.name for path in folder.iterdir()] == ["key.npy"]


@pytest.mark.skipif(sys.platform != "linux", reason="the folder is another one")
def test_the_folder_of_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("LITLENS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/litlens")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "litlens"
