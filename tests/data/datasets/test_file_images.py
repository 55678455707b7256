"""Files are decoded once into a cache: what is reused, what is decoded again, and what is never cached."""

import errno
import gc
import hashlib
import multiprocessing
import os
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_folders import counts, draw, fill, set_up
from PIL import Image

from litlens.data.datasets import file_images
from litlens.data.datasets.file_images import size_for_crops
from litlens.data.datasets.folder import FolderDataModule
from litlens.data.duplicates import shared_between_splits
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


def everything(data: FolderDataModule) -> dict[str, list[bytes]]:
    """All batches of two epochs of training, of validation and of test."""
    loaders = [data.train_dataloader(), data.train_dataloader(), data.val_dataloader(), data.test_dataloader()]
    return {str(number): [images.numpy().tobytes() for images, _ in loader] for number, loader in enumerate(loaders)}


@pytest.mark.parametrize("augment", [[{"rotation": 10}], ["crop"], [{"RandomCrop": {}}]])
def test_the_cache_changes_no_bit(tmp_path: Path, cache: Path, augment: Any) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(10):
            pixels = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize((600, 590))
            pixels.save(tmp_path / "pets" / name / f"{number}.jpg")
    without = everything(set_up(tmp_path / "pets", augment=augment, cache="off", batch_size=4))
    assert list(cache.glob("images-*/pixels")) == []
    assert everything(set_up(tmp_path / "pets", augment=augment, cache="on", batch_size=4)) == without
    assert everything(set_up(tmp_path / "pets", augment=augment, cache="off", batch_size=4)) == without


def test_without_a_cache_nothing_is_read_before_it_is_needed_nor_twice_to_hash_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, read_bytes = list[Path](), Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or read_bytes(path))
    folder = fill(tmp_path / "pets", {"a": 10, "b": 10})
    data = set_up(folder, cache="off", batch_size=4)
    assert data.fingerprint()["content"] == ""
    assert set(data.samples("train").hashes) == {""}
    assert shared_between_splits(data) == []
    assert read == []
    before = everything(data)
    assert len(read) == 2 * 12 + 6 + 2
    of_files = {
        path.relative_to(folder).as_posix(): hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        for path in folder.rglob("*.png")
    }
    read.clear()
    train = data.samples("train")
    assert train.hashes == [f"file:{of_files[name]}" for name in train.names]
    content = data.fingerprint()["content"]
    assert content == set_up(folder, cache="off").fingerprint()["content"] != ""
    assert read == []
    assert content == set_up(folder, cache="on").fingerprint()["content"]
    assert len(read) == 20
    assert everything(set_up(folder, cache="on", batch_size=4)) == before


def test_what_would_take_more_than_the_limit_is_decoded_when_it_is_needed(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = fill(tmp_path / "pets", {"a": 10, "b": 10})
    monkeypatch.setenv("LITLENS_CACHE_GB", "0.000003")  # 20 images of 8×8 take 3,840 bytes
    data = set_up(folder)
    assert caplog.messages[0].startswith("data.cache: 20 images would take up to 0 GB: files are decoded when they are")
    (folder / "a" / "000.png").write_bytes(b"\x89PNG")
    (folder / "b" / "000.png").unlink()
    with pytest.raises(UserError, match=r"(changed since the start|No such file)"):
        everything(data)
    assert list(cache.glob("images-*/pixels")) == []
    with pytest.raises(UserError, match=r"data\.cache: 'never' is not one of auto, on, off"):
        FolderDataModule(folder, cache="never")  # type: ignore[arg-type]


def test_a_bad_file_without_a_cache(tmp_path: Path) -> None:
    folder = fill(tmp_path / "pets", {"a": 20, "b": 20})
    (folder / "b" / "empty.png").touch()
    data = set_up(folder, cache="off", max_bad_files=0.1, batch_size=4)
    assert data.left_out == ["b/empty.png (an empty file)"]
    name = data.samples("train").names[0]
    (folder / name).write_bytes(b"GIF89a")
    data = set_up(folder, cache="off", max_bad_files=0.1, batch_size=4)
    with pytest.raises(
        UserError, match=rf"{name}: .*; remove it, or give data\.cache=on, which checks all files first"
    ):
        everything(data)


@pytest.mark.parametrize(
    ("steps", "size", "expected"),
    [
        (["rotation"], (224, 224), (False, None)),
        (["crop"], (224, 224), (True, 366)),  # 224 / √(1/2 · 3/4)
        ([{"crop": {"range": [0.4, 1.0]}}, "ColorJitter"], (64, 64), (True, 256)),
        ([{"crop": 1.0}], (224, 192), (True, 259)),  # 224 / √(3/4)
        (
            [{"OneOf": {"transforms": ["rotation", "RandomResizedCrop"]}}],
            (224, 224),
            (True, 448),
        ),  # twice the network's
        (["crop", {"RandomCrop": {"height": 8, "width": 8}}], (8, 8), (True, None)),
    ],
)
def test_the_size_that_crops_are_taken_from(
    steps: Any, size: tuple[int, int], expected: tuple[bool, int | None]
) -> None:
    assert size_for_crops(steps, size) == expected


def test_a_large_jpeg_is_kept_at_a_bounded_size_with_what_the_network_sees(tmp_path: Path, cache: Path) -> None:
    y, x = np.mgrid[:1500, :2000]
    rng = np.random.default_rng(0)
    pixels = 128 + 60 * np.sin(x / 9) * np.cos(y / 11) + 40 * np.sin((x + y) / 40) + rng.normal(0, 5, x.shape)
    image = Image.fromarray(np.stack([pixels, pixels[::-1], pixels[:, ::-1]], axis=2).clip(0, 255).astype(np.uint8))
    for name in ("train/a", "train/b", "val/a", "val/b", "test/a", "test/b"):
        (tmp_path / "large" / name).mkdir(parents=True)
        image.save(tmp_path / "large" / name / "0.jpg", quality=95)
    data = FolderDataModule(tmp_path / "large", image_size=112, augment=["crop"], batch_size=2)
    data.setup()
    train: Any = data.samples("train")
    kept = train.images.original(int(train.rows[0]))
    assert kept.shape == (256, 341, 3)
    assert train.images.sizes(train.rows).tolist() == [[1500, 2000]] * 2
    sizes = sorted(path.stat().st_size for path in cache.glob("images-*/pixels"))
    assert sizes == [4 * 112 * 112 * 3, 2 * 256 * 341 * 3]  # evaluation's images, and those for crops
    # What docs/cache.md says of it: decoded at a quarter, then resized, against a resize of all pixels.
    complete = np.asarray(image.resize((341, 256), Image.Resampling.BICUBIC), dtype=np.float64)
    assert 10 * np.log10(255**2 / np.mean((kept - complete) ** 2)) > 38
    # Not the images of evaluation: those are as if no crop were there.
    plain = FolderDataModule(tmp_path / "large", image_size=112)
    plain.setup()
    np.testing.assert_array_equal(data.image("test", 0), plain.image("test", 0))
    assert len(shared_between_splits(data)) == 4


def test_only_a_few_files_wait_to_be_decoded() -> None:
    begun = list[int]()
    results = file_images._in_threads(lambda row: begun.append(row) or row, list(range(1000)), description="")
    assert next(results) == 0
    assert len(begun) < 100
    assert list(results) == list(range(1, 1000))


def test_records_of_files_that_are_gone_do_not_stay_forever(tmp_path: Path, cache: Path) -> None:
    folder = fill(tmp_path / "pets", {"a": 10, "b": 10})
    for time in range(1, 5):
        for path in folder.rglob("*.png"):
            os.utime(path, (time, time))
        set_up(folder)
        gc.collect()  # what is in use would be kept
    (store,) = cache.glob("images-*")
    assert (store / "pixels").stat().st_size in (20 * 192, 40 * 192)


def test_of_several_processes_one_decodes(tmp_path: Path, cache: Path) -> None:
    folder = fill(tmp_path / "pets", {"a": 20, "b": 20})
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=set_up, args=(folder,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    (store,) = cache.glob("images-*")
    assert (store / "pixels").stat().st_size == 40 * 192
    assert sorted(path.name for path in store.iterdir()) == ["index", "pixels"]


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
