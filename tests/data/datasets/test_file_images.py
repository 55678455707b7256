"""Files are decoded once into a cache: what is reused, what is decoded again, and what is never cached."""

import errno
import gc
import os
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_folders import counts, draw, fill, set_up

from litlens.data.datasets import file_images
from litlens.data.datasets.folder import FolderDataModule
from litlens.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LITLENS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.EACCES])
def test_a_file_that_could_not_be_read_is_not_kept_as_a_bad_image(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    folder = fill(tmp_path / "pets", {"a": 10, "b": 10})
    read_bytes = Path.read_bytes

    def fails_once(path: Path) -> bytes:
        if path.name == "003.png" and path.parent.name == "b":
            raise OSError(number, os.strerror(number), str(path))
        return read_bytes(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fails_once)
        with pytest.raises(UserError) as caught:
            set_up(folder, max_bad_files=0.5)
    assert str(caught.value).startswith(f"{folder / 'b' / '003.png'} cannot be read ({os.strerror(number)}): ")
    data = set_up(folder)
    assert data.left_out == []
    assert counts(data) == {"train": [6, 6], "val": [3, 3], "test": [1, 1]}


@pytest.mark.parametrize("change", ["removed", "changed"])
def test_a_file_that_changes_while_it_is_read_stops_the_run(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    folder = fill(tmp_path / "pets", {"a": 10, "b": 10})
    read_bytes = Path.read_bytes

    def changes(path: Path) -> bytes:
        if path.name == "003.png" and path.parent.name == "b":
            path.unlink()
            if change == "changed":
                draw(path, value=250)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", changes)
    with pytest.raises(UserError) as caught:
        set_up(folder, max_bad_files=0.5)
    assert str(caught.value) == f"{folder / 'b' / '003.png'} was changed or removed while it was read: start again"


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("change", ["removed", "changed", "unreadable"])
def test_a_file_that_changes_between_two_epochs_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, workers: int
) -> None:
    folder = fill(tmp_path / "pets", {"a": 10, "b": 10})
    data = set_up(folder, augment=["crop"], batch_size=4, num_workers=workers, cache="off")
    name = data.samples("train").names[0]
    assert sum(len(labels) for _, labels in data.train_dataloader()) == 12
    reason = "the file has changed since the start of the run"
    os.utime(folder / name)  # the same image
    assert sum(len(labels) for _, labels in data.train_dataloader()) == 12
    if change == "changed":
        draw(folder / name, value=250)
    elif change == "removed":
        (folder / name).unlink()
        reason = os.strerror(errno.ENOENT)
    else:
        read_bytes, reason = Path.read_bytes, os.strerror(errno.EIO)

        def fails(path: Path) -> bytes:
            if path == folder / name:
                raise OSError(errno.EIO, reason)
            return read_bytes(path)

        monkeypatch.setattr(Path, "read_bytes", fails)
    with pytest.raises(UserError) as caught:
        list(data.train_dataloader())
    assert str(caught.value) == f"{name}: {reason}"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are decoded."""
    names = []
    original = file_images.decode_image

    def counted(path: Path, *, name: str, **options: Any) -> Any:
        names.append(name)
        return original(path, name=name, **options)

    monkeypatch.setattr(file_images, "decode_image", counted)
    return names


def pixels(data: FolderDataModule) -> dict[str, bytes]:
    splits = {split: data.samples(split) for split in ("train", "val", "test")}
    return {name: data.image(split, i).tobytes() for split in splits for i, name in enumerate(splits[split].names)}


def test_only_what_is_new_or_changed_is_decoded(tmp_path: Path, cache: Path, decoded: list[str]) -> None:
    folder = fill(tmp_path / "pets", {"a": 10, "b": 10})
    (folder / "b" / "empty.png").touch()
    bad = {"max_bad_files": 0.1}
    first = set_up(folder, **bad)
    assert len(decoded) == 21
    before, left_out = first.fingerprint(), first.left_out
    again = set_up(folder, seed=1, **bad)
    assert decoded[21:] == ["b/empty.png"]
    assert again.fingerprint() == before
    del first, again  # what is in use would be kept
    gc.collect()

    decoded.clear()
    draw(folder / "a" / "000.png", value=250)
    os.utime(folder / "a" / "000.png", (1, 1))
    draw(folder / "a" / "new.png", value=251)
    (folder / "a" / "001.png").unlink()
    changed = set_up(folder, **bad)
    assert sorted(decoded) == ["a/000.png", "a/new.png", "b/empty.png"]  # which may have been copied completely by now
    assert changed.fingerprint() != before
    assert changed.left_out == left_out == ["b/empty.png (an empty file)"]
    (store,) = cache.glob("images-*")
    assert (store / "pixels").stat().st_size == (20 + 2) * 8 * 8 * 3  # nothing was copied
    from_cache = pixels(changed)
    assert from_cache["a/new.png"] == bytes([251, 100, 0]) * 64
    shutil.rmtree(store)
    assert from_cache == pixels(set_up(folder, **bad))  # all decoded again

    FolderDataModule(folder, image_size=9, **bad).setup()
    assert len(list(cache.glob("images-*"))) == 2  # of another size: both are of use


def test_a_killed_process_leaves_a_usable_cache(tmp_path: Path, cache: Path, decoded: list[str]) -> None:
    folder = fill(tmp_path / "pets", {"a": 10, "b": 10})
    set_up(folder)
    draw(folder / "a" / "new.png", value=251)
    (store,) = cache.glob("images-*")
    index = (store / "index").read_bytes()
    set_up(folder)
    before = pixels(set_up(folder))
    # As after a kill: pixels without a record, and a part of a record.
    (store / "index").write_bytes(index + (store / "index").read_bytes()[len(index) :][:7])
    decoded.clear()
    assert pixels(set_up(folder)) == before
    assert decoded == ["a/new.png"]
    assert (store / "pixels").stat().st_size == 21 * 8 * 8 * 3


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no change time")
def test_a_file_replaced_by_one_of_its_size_and_time_is_decoded_again(tmp_path: Path) -> None:
    folder = fill(tmp_path / "pets", {"a": 10, "b": 10})
    replaced = folder / "a" / "000.png"
    before, stat = set_up(folder).fingerprint(), replaced.stat()
    draw(replaced, value=250)
    os.utime(replaced, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as `cp -p` does
    assert replaced.stat().st_size == stat.st_size
    data = set_up(folder)
    assert pixels(data)["a/000.png"] == bytes([250, 100, 0]) * 64
    assert data.fingerprint()["content"] != before["content"]


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="their file names are Unicode")
def test_a_name_need_not_be_utf_8(tmp_path: Path) -> None:
    folder = fill(tmp_path / "pets", {"a": 10, "b": 10})
    (folder / "a" / "000.png").rename(folder / "a" / os.fsdecode(b"\xff.png"))
    data = set_up(folder)
    assert data.fingerprint()["files"] == 20
    assert r"a/\xff.png" in [n for s in ("train", "val", "test") for n in data.samples(s).names]


def test_a_crop_is_taken_from_the_original(tmp_path: Path) -> None:
    for name, value in (("a", 10), ("b", 200)):
        for number in range(10):
            draw(tmp_path / "pets" / name / f"{number}.png", value=value, size=(40, 20))
    data = set_up(tmp_path / "pets", augment=["crop"], channels=1)
    samples = data.samples("train")
    images: Any = samples.images
    assert images.original(int(samples.rows[0])).shape == (20, 40, 1)
    assert images.sizes(samples.rows).tolist() == [[20, 40]] * 12
    assert data.augmented(0, epoch=0).shape == (8, 8, 1)


def test_images_are_pickled_without_their_pixels(tmp_path: Path) -> None:
    samples = set_up(fill(tmp_path / "pets", {"a": 100, "b": 100})).samples("train")
    pickled = pickle.dumps(samples.images)
    pixels = samples.images.batch(samples.rows)
    assert pixels[0].tobytes() not in pickled
    np.testing.assert_array_equal(pickle.loads(pickled).batch(samples.rows), pixels)
