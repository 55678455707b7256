"""Files decoded once into a cache: when that is taken, when it is made anew, and what may never get into it."""

import errno
import os
import pickle
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_folders import counts, draw, fill, made

from litlens.data.datasets import file_images
from litlens.data.datasets.folder import FolderDataModule
from litlens.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LITLENS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.EACCES])
def test_a_file_that_could_not_be_read_is_no_bad_image(
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
            made(folder, max_bad_files=0.5)
    assert str(caught.value).startswith(f"{folder / 'b' / '003.png'} cannot be read ({os.strerror(number)}): ")
    assert list(cache.glob("*")) == []
    data = made(folder)
    assert data.left_out == []
    assert counts(data) == {"train": [6, 6], "val": [3, 3], "test": [1, 1]}


def test_decoded_once_and_again_when_a_file_changes(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    original = file_images.decode_image

    def counted(path: Path, **options: Any) -> Any:
        decoded.append(path)
        return original(path, **options)

    monkeypatch.setattr(file_images, "decode_image", counted)
    folder = fill(tmp_path / "pets", {"a": 10, "b": 10})
    fingerprint = made(folder).fingerprint()
    assert len(decoded) == 20
    assert made(folder, seed=1).fingerprint() == fingerprint
    assert len(decoded) == 20
    draw(folder / "a" / "000.png", value=250)
    os.utime(folder / "a" / "000.png", (1, 1))
    data = made(folder)
    assert len(decoded) == 40
    assert data.fingerprint() != fingerprint
    pixels = [data.image(s, i) for s in ("train", "val", "test") for i in range(len(data.samples(s)))]
    assert sum(p[0, 0, 0] == 250 for p in pixels) == 1
    assert len(list(cache.glob("files-*.npy"))) == 1  # the old one is gone
    FolderDataModule(folder, image_size=9).setup()
    assert len(list(cache.glob("files-*.npy"))) == 2  # of another size: both are of use


@pytest.mark.skipif(sys.platform == "win32", reason="there a file's times are those of its making and writing")
def test_a_file_replaced_by_one_of_its_size_and_time_is_decoded_again(tmp_path: Path) -> None:
    folder = fill(tmp_path / "pets", {"a": 10, "b": 10})
    replaced = folder / "a" / "000.png"
    before, stat = made(folder).fingerprint(), replaced.stat()
    draw(replaced, value=250)
    os.utime(replaced, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as `cp -p` does
    assert replaced.stat().st_size == stat.st_size
    data = made(folder)
    pixels = [data.image(s, i) for s in ("train", "val", "test") for i in range(len(data.samples(s)))]
    assert sum(p[0, 0, 0] == 250 for p in pixels) == 1
    assert data.fingerprint()["content"] != before["content"]


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="their file names are Unicode")
def test_a_name_need_not_be_utf_8(tmp_path: Path) -> None:
    folder = fill(tmp_path / "pets", {"a": 10, "b": 10})
    (folder / "a" / "000.png").rename(folder / "a" / os.fsdecode(b"\xff.png"))
    data = made(folder)
    assert data.fingerprint()["files"] == 20
    assert r"a/\xff.png" in [n for s in ("train", "val", "test") for n in data.samples(s).names]


def test_originals_come_from_the_files_where_the_augmentation_crops(tmp_path: Path) -> None:
    for name, value in (("a", 10), ("b", 200)):
        for number in range(10):
            draw(tmp_path / "pets" / name / f"{number}.png", value=value, size=(40, 20))
    data = made(tmp_path / "pets", augment=["crop"], channels=1)
    samples = data.samples("train")
    images: Any = samples.images
    assert images.original(int(samples.rows[0])).shape == (20, 40, 1)
    assert images.sizes(samples.rows).tolist() == [[20, 40]] * 12
    assert data.augmented(0, epoch=0).shape == (8, 8, 1)
    # What vanishes after setup stops the run with its name.
    row = int(samples.rows[0])
    (tmp_path / "pets" / samples.names[0]).unlink()
    with pytest.raises(UserError, match=re.escape(samples.names[0])):
        images.original(row)


def test_images_travel_to_workers_without_their_pixels(tmp_path: Path) -> None:
    samples = made(fill(tmp_path / "pets", {"a": 100, "b": 100})).samples("train")
    pickled = pickle.dumps(samples.images)
    assert b"100.png" not in pickled
    np.testing.assert_array_equal(pickle.loads(pickled).batch(samples.rows), samples.images.batch(samples.rows))
