"""Arrays between runs: complete or not there, for many processes at once, on any folder, up to a size."""

import errno
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import litlens
from litlens.cli.main import train
from litlens.data import cache
from litlens.data.cache import cache_folder, cached_array, mapped_array
from litlens.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:.*is multi-threaded")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LITLENS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def not_again() -> np.ndarray:
    raise AssertionError("built twice")


def at_once(number: int, function: Callable[[int], None]) -> None:
    """Call a function in forked processes that wait for each other, and expect all to succeed."""
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(number)

    def run(place: int) -> None:
        barrier.wait(30)
        function(place)

    processes = [context.Process(target=run, args=(place,)) for place in range(number)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * number


def test_built_once_and_mapped(folder: Path) -> None:
    expected = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(cached_array("key", lambda: expected), expected)
    again = cached_array("key", not_again)
    np.testing.assert_array_equal(again, expected)
    assert isinstance(again, np.memmap)
    assert not again.flags.writeable
    assert [path.name for path in folder.iterdir()] == ["key.npy"]


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


def test_a_file_of_a_killed_process_is_removed_after_a_day(folder: Path) -> None:
    folder.mkdir()
    for name, age in ((".old.part", 2), (".new.part", 0)):
        (folder / name).touch()
        os.utime(folder / name, (time.time() - age * 86_400,) * 2)
    cached_array("key", lambda: np.zeros(1))
    assert sorted(path.name for path in folder.iterdir()) == [".new.part", "key.npy"]


def test_a_failing_build_leaves_nothing(folder: Path) -> None:
    def interrupted() -> np.ndarray:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_array("key", interrupted)
    assert list(folder.iterdir()) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"no space is left.*LITLENS_CACHE"):
        cached_array("key", lambda: np.zeros(3))
    assert list(folder.iterdir()) == []


def test_of_many_processes_with_one_key_one_computes_and_the_others_wait(folder: Path) -> None:
    def write(number: int) -> None:
        def build() -> np.ndarray:
            (folder.parent / f"built-{number}").touch()
            time.sleep(0.2)
            return np.arange(1000)

        np.testing.assert_array_equal(cached_array("key", build), np.arange(1000))

    at_once(6, write)
    assert len(list(folder.parent.glob("built-*"))) == 1
    assert [path.name for path in folder.iterdir()] == ["key.npy"]


def test_a_process_that_is_killed_while_it_computes_lets_the_next_one_compute(folder: Path) -> None:
    def killed(_: int) -> None:
        cached_array("key", lambda: os.kill(os.getpid(), signal.SIGKILL))

    with pytest.raises(AssertionError):
        at_once(1, killed)
    assert cached_array("key", lambda: np.arange(3)).tolist() == [0, 1, 2]


def test_twelve_processes_with_keys_of_one_owner_all_get_their_arrays(folder: Path) -> None:
    def write(number: int) -> None:
        for round_ in range(5):
            array = cached_array(f"{number}-{round_}", lambda: np.full(1000, number), owner="cats")
            assert set(array.tolist()) == {number}
            assert Path(array.filename).is_file()  # where spawned workers map it again
            del array

    at_once(12, write)
    assert list(folder.glob(".*")) == []


def test_what_is_in_use_stays_and_the_rest_is_removed_oldest_first(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [f"content-{digit * 32}" for digit in "abcd"]
    in_use = cached_array(keys[0], lambda: np.zeros(1000))
    for age, key in zip((4, 3, 2, 1), keys, strict=True):
        cached_array(key, lambda: np.zeros(1000))
        os.utime(folder / f"{key}.npy", (time.time() - age * 3600,) * 2)
    (folder / "mine.npy").write_bytes(b"x" * 100_000)  # of a user who keeps other files there
    monkeypatch.setenv("LITLENS_CACHE_GB", "0.000025")  # three of 8,128 bytes
    cached_array(f"content-{'e' * 32}", lambda: np.zeros(1000))
    kept = [keys[0], keys[3], f"content-{'e' * 32}"]
    assert sorted(path.name for path in folder.iterdir()) == sorted([*(f"{key}.npy" for key in kept), "mine.npy"])
    assert in_use.sum() == 0


def test_clearing_keeps_what_any_process_uses(folder: Path) -> None:
    features = folder / f"features-{'f' * 32}"
    features.mkdir(parents=True)
    np.save(features / "chunk.npy", np.zeros(10))
    (folder / "mine.npy").touch()
    in_use = cached_array(f"content-{'a' * 32}", lambda: np.zeros(1000))
    cached_array(f"content-{'b' * 32}", lambda: np.zeros(1000))
    chunk = mapped_array(features / "chunk.npy")

    def clear(_: int) -> None:
        # What a forked process has inherited stays in use.
        assert litlens.clear_cache() == 8128

    at_once(1, clear)
    assert sorted(path.name for path in folder.iterdir()) == [f"content-{'a' * 32}.npy", features.name, "mine.npy"]
    del in_use, chunk
    assert litlens.clear_cache() == 8128 + 208
    assert [path.name for path in folder.iterdir()] == ["mine.npy"]


@pytest.mark.parametrize("limit", ["much", "-1", "nan"])
def test_a_wrong_limit_is_one_line(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITLENS_CACHE_GB", limit)
    with pytest.raises(UserError, match=f"^LITLENS_CACHE_GB: '{limit}' is not a number of gigabytes: give one"):
        cached_array("key", not_again)


@pytest.mark.skipif(not hasattr(os, "setuid") or os.getuid() != 0, reason="another user is needed, whom root can be")
def test_a_folder_that_cannot_be_written_is_read_and_others_go_to_the_temporary_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cached_array("kept", lambda: np.arange(3))
    temporary = Path(tempfile.mkdtemp())
    for readable in (folder, *folder.parents):
        if temporary.parent in readable.parents:
            readable.chmod(0o755)
    temporary.chmod(0o777)
    monkeypatch.setenv("TMPDIR", str(temporary))

    def write(number: int) -> None:
        # What the forking process knows is another user's.
        tempfile.tempdir = None
        cache._writable.cache_clear()
        os.setuid(65534)
        assert cached_array("kept", not_again).tolist() == [0, 1, 2]
        assert cached_array(f"new-{number}", lambda: np.arange(4)).tolist() == [0, 1, 2, 3]
        assert cached_array(f"new-{number}", not_again).tolist() == [0, 1, 2, 3]
        (line,) = (record.getMessage() for record in caplog.records)
        assert line.startswith(f"the cache folder {folder} cannot be written (Permission denied): {temporary}/litlens-")

    at_once(2, write)
    assert [path.name for path in folder.iterdir()] == ["kept.npy"]
    shutil.rmtree(temporary)


@pytest.mark.skipif(sys.platform == "win32", reason="the home is elsewhere")
def test_the_digits_train_where_the_home_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("LITLENS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/dev/null")  # in which nothing can be made, not even by root
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    config = Path(__file__).resolve().parents[2] / "configs" / "digits_cnn.yaml"
    train([f"--config={config}", "--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.callbacks=[]"])
    assert len(list(tmp_path.glob("runs/digits_cnn/*/results.json"))) == 1
    (line,) = (record.getMessage() for record in caplog.records if "cannot be written" in record.getMessage())
    assert line.startswith("the cache folder /dev/null/.cache/litlens cannot be written (Not a directory): ")
    assert list(tmp_path.glob("litlens*/content-*.npy"))


@pytest.mark.skipif(sys.platform != "linux", reason="the folder is another one")
def test_the_folder_of_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("LITLENS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/litlens")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "litlens"
