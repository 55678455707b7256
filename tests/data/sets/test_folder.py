"""A folder of pictures, with all that can be wrong with one."""

import errno
import os
import pickle
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from litlens.data.sets import file_pictures
from litlens.data.sets.folder import FolderDataModule
from litlens.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LITLENS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def draw(path: Path, *, value: int = 0, size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 100, 0)).save(path)


def fill(folder: Path, counts: dict[str, int]) -> Path:
    """Pictures 000.png, 001.png, … in each subfolder, each of a colour of its own."""
    value = 0
    for name, count in counts.items():
        for number in range(count):
            value += 1
            draw(folder / name / f"{number:03}.png", value=value % 256)
    return folder


def made(folder: Path, **options: Any) -> FolderDataModule:
    data = FolderDataModule(folder, image_size=8, **options)
    data.setup()
    return data


def counts(data: FolderDataModule) -> dict[str, list[int]]:
    return {split: np.bincount(data.samples(split).labels).tolist() for split in ("train", "val", "test")}


def test_a_flat_folder_is_cut_6_3_1(tmp_path: Path) -> None:
    data = made(fill(tmp_path / "pets", {"dog": 20, "cat": 30}), seed=3)
    assert (data.class_names, data.num_classes) == (["cat", "dog"], 2)
    assert counts(data) == {"train": [18, 12], "val": [9, 6], "test": [3, 2]}
    names = [name for split in ("train", "val", "test") for name in data.samples(split).names]
    assert len(set(names)) == 50
    assert "cat/000.png" in names
    # A picture's colour says which file it is: names, labels and pixels belong together.
    value = {f"dog/{i:03}.png": i + 1 for i in range(20)} | {f"cat/{i:03}.png": i + 21 for i in range(30)}
    for split in ("train", "val", "test"):
        samples = data.samples(split)
        for index, (name, label) in enumerate(zip(samples.names, samples.labels, strict=True)):
            assert data.picture(split, index)[0, 0].tolist() == [value[name], 100, 0]
            assert data.class_names[label] == name.split("/")[0]
    again, other = made(tmp_path / "pets", seed=3), made(tmp_path / "pets", seed=4)
    assert again.samples("val").names == data.samples("val").names != other.samples("val").names


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"train": 30}, {"train": [18, 18], "val": [9, 9], "test": [3, 3]}),
        ({"train": 30, "test": 4}, {"train": [20, 20], "val": [10, 10], "test": [4, 4]}),
        ({"train": 30, "val": 4}, {"train": [27, 27], "val": [4, 4], "test": [3, 3]}),
        ({"train": 5, "val": 4, "test": 3}, {"train": [5, 5], "val": [4, 4], "test": [3, 3]}),
    ],
)
def test_missing_splits_are_cut_from_train(
    tmp_path: Path, given: dict[str, int], expected: dict[str, list[int]]
) -> None:
    wanted = {f"{split}/{name}": count for split, count in given.items() for name in "ab"}
    data = made(fill(tmp_path / "pets", wanted))
    assert counts(data) == expected
    for split in set(given) - {"train"}:
        assert all(name.startswith(f"{split}/") for name in data.samples(split).names)


def test_only_names_are_read_on_construction(tmp_path: Path) -> None:
    for name in ("b", "a", ".hidden"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        (tmp_path / "pets" / name / "x.jpg").write_text("no picture")
    data = FolderDataModule(tmp_path / "pets", image_size=(10, 20), channels=1)
    assert (data.class_names, data.image_size, data.in_channels) == (["a", "b"], (10, 20), 1)


def test_hidden_files_are_skipped_and_deep_ones_found(tmp_path: Path) -> None:
    folder = fill(tmp_path / "pets", {"a": 20, "b/deep/deeper": 20})
    (folder / "a" / ".DS_Store").write_text("x")
    (folder / "b" / "round").symlink_to(folder / "b")
    (folder / "README.txt").write_text("not in a class folder")
    data = made(folder)
    assert data.left_out == []
    assert sum(len(data.samples(split)) for split in ("train", "val", "test")) == 40
    assert "b/deep/deeper/000.png" in [n for s in ("train", "val", "test") for n in data.samples(s).names]


def test_bad_files_in_training_are_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = fill(tmp_path / "pets", {"a": 50, "b": 50})
    (folder / "a" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (folder / "b" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    data = made(folder, max_bad_files=0.02)
    assert data.left_out == ["a/Thumbs.db (not a picture)", "b/gone.jpg (No such file or directory)"]
    assert "left out 2 of 102: a/Thumbs.db (not a picture); b/gone.jpg" in caplog.text
    assert counts(data) == {"train": [30, 30], "val": [15, 15], "test": [5, 5]}
    assert made(folder, max_bad_files=0.02).left_out == data.left_out  # from the cache as well
    with pytest.raises(UserError, match=r"max_bad_files: 2 of 102 files in train .*1\.00%: a/Thumbs\.db"):
        made(folder)


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.EACCES])
def test_a_file_that_could_not_be_read_is_no_bad_picture(
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


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_bad_file_in_val_or_test_is_an_error(tmp_path: Path, split: str) -> None:
    folder = fill(tmp_path / "pets", {f"{s}/{name}": 5 for s in ("train", "val", "test") for name in "ab"})
    (folder / split / "a" / "empty.jpg").touch()
    with pytest.raises(UserError, match=rf"in val or test: {split}/a/empty\.jpg \(an empty file\)"):
        made(folder, max_bad_files=1.0)


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        ({}, "is not there"),
        ({".": 3}, "has no folder of a class"),
        ({"a": 3}, "has one class only, a"),
        ({"a": 3, "b": 0}, "the class folder .*b is empty"),
        ({"train/a": 3, "train/b": 0}, "the class folder .*b is empty"),
        ({"train/a": 3, "val/a": 3, "val/b": 3}, "class b stands in .*val but not in .*train"),
        ({"val/a": 3, "test/a": 3}, "has val and test but no train"),
        ({"train/a": 3, "train/b": 3, "valid/a": 3}, "valid stands beside train"),
        ({"a": 3, "b": 3}, "6 are too few to cut a test split from"),
    ],
)
def test_mistakes_have_their_own_message(tmp_path: Path, counts: dict[str, int], told: str) -> None:
    folder = fill(tmp_path / "pets", counts)
    for name in counts:
        (folder / name).mkdir(parents=True, exist_ok=True)
    with pytest.raises(UserError, match=told) as caught:
        made(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_pictures(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / "pets" / name).mkdir(parents=True)
        (tmp_path / "pets" / name / "note.txt").write_text("x")
    with pytest.raises(UserError, match=r"holds no picture: a/note\.txt \(not a picture\), b/note\.txt"):
        made(tmp_path / "pets")


def test_a_class_whose_training_pictures_are_all_bad(tmp_path: Path) -> None:
    folder = fill(tmp_path / "pets", {"a": 20})
    (folder / "b").mkdir()
    (folder / "b" / "x.jpg").write_text("x")
    with pytest.raises(UserError, match="no training picture of class b is left"):
        made(folder, max_bad_files=0.5)


def test_a_file_instead_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "pets").touch()
    with pytest.raises(UserError, match="is a file, not a folder"):
        made(tmp_path / "pets")


def test_decoded_once_and_again_when_a_file_changes(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    original = file_pictures.read_picture

    def counted(path: Path, **options: Any) -> Any:
        decoded.append(path)
        return original(path, **options)

    monkeypatch.setattr(file_pictures, "read_picture", counted)
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
    pixels = [data.picture(s, i) for s in ("train", "val", "test") for i in range(len(data.samples(s)))]
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
    pixels = [data.picture(s, i) for s in ("train", "val", "test") for i in range(len(data.samples(s)))]
    assert sum(p[0, 0, 0] == 250 for p in pixels) == 1
    assert data.fingerprint()["content"] != before["content"]


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="their file names are Unicode")
def test_a_name_need_not_be_utf_8(tmp_path: Path) -> None:
    folder = fill(tmp_path / "pets", {"a": 10, "b": 10})
    (folder / "a" / "000.png").rename(folder / "a" / os.fsdecode(b"\xff.png"))
    data = made(folder)
    assert data.fingerprint()["files"] == 20
    assert os.fsdecode(b"a/\xff.png") in [n for s in ("train", "val", "test") for n in data.samples(s).names]


def test_a_folder_and_its_csv_are_the_same_data_wherever_they_lie(tmp_path: Path) -> None:
    folder = fill(tmp_path / "here" / "pets", {"x": 12})
    csv = table(tmp_path, "\n".join(["file,label", *(f"x/{i:03}.png,{'ab'[i % 2]}" for i in range(12))]))
    before = made(folder, csv=csv).fingerprint()
    (tmp_path / "lists" / "old").mkdir(parents=True)
    moved = csv.rename(tmp_path / "lists" / "old" / csv.name)
    assert made(folder.rename(tmp_path / "pets"), csv=moved).fingerprint()["content"] == before["content"]


def test_originals_come_from_the_files_where_the_augmentation_crops(tmp_path: Path) -> None:
    for name, value in (("a", 10), ("b", 200)):
        for number in range(10):
            draw(tmp_path / "pets" / name / f"{number}.png", value=value, size=(40, 20))
    data = made(tmp_path / "pets", augment=["crop"], channels=1)
    samples = data.samples("train")
    pictures: Any = samples.pictures
    assert pictures.original(int(samples.rows[0])).shape == (20, 40, 1)
    assert pictures.sizes(samples.rows).tolist() == [[20, 40]] * 12
    assert data.augmented(0, epoch=0).shape == (8, 8, 1)
    # What vanishes after setup stops the run with its name.
    row = int(samples.rows[0])
    (tmp_path / "pets" / samples.names[0]).unlink()
    with pytest.raises(UserError, match=re.escape(samples.names[0])):
        pictures.original(row)


def test_a_crop_that_is_not_drawn_leaves_the_picture_that_evaluation_sees(tmp_path: Path) -> None:
    for name in "ab":
        for number in range(10):
            path = tmp_path / "pets" / name / f"{number}.png"
            draw(path, size=(40, 20))
            with Image.open(path) as image:
                image.paste((200, 200, 200), (0, 0, 10, 20))  # what a crop of the centre leaves out
                image.save(path)
    for fit in ("crop", "squash"):
        data = made(tmp_path / "pets", augment=[{"crop": {"p": 0}}], fit=fit)
        np.testing.assert_array_equal(data.augmented(0, epoch=0), data.picture("train", 0))


def test_pictures_travel_to_workers_without_their_pixels(tmp_path: Path) -> None:
    samples = made(fill(tmp_path / "pets", {"a": 100, "b": 100})).samples("train")
    pickled = pickle.dumps(samples.pictures)
    assert b"100.png" not in pickled
    np.testing.assert_array_equal(pickle.loads(pickled).batch(samples.rows), samples.pictures.batch(samples.rows))


def table(folder: Path, text: str) -> Path:
    (folder / "table.csv").write_text(text, encoding="utf-8")
    return folder / "table.csv"


def test_a_csv_with_groups_keeps_each_on_one_side(tmp_path: Path) -> None:
    folder = fill(tmp_path / "pets", {".": 60})
    lines = [f'"{i:03}.png", {"ab"[i % 2]}, patient {i // 4}' for i in range(60)]
    data = made(folder, csv=table(folder, "\n".join(["\ufefffile,label,group", *lines])))
    assert data.class_names == ["a", "b"]
    homes = [set(data.samples(split).groups or ()) for split in ("train", "val", "test")]
    assert [len(home) for home in homes] == [9, 5, 1]  # of 15 groups; exactly 9, 4.5 and 1.5
    assert set.union(*homes) == {f"patient {i}" for i in range(15)}


def test_a_csv_with_splits(tmp_path: Path) -> None:
    folder = fill(tmp_path / "pets", {"x": 12})
    lines = [f"x/{i:03}.png,{'ab'[i % 2]},{'train' if i < 9 else 'test'}" for i in range(12)]
    data = made(folder, csv=table(tmp_path, "\n".join(["file,label,split", *lines])))
    assert data.samples("test").names == ["x/009.png", "x/010.png", "x/011.png"]
    assert counts(data) == {"train": [3, 3], "val": [2, 1], "test": [1, 2]}


def test_groups_that_stand_in_two_given_splits_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = fill(tmp_path / "pets", {".": 30})
    lines = [
        f"{i:03}.png,{'ab'[i % 2]},{('train', 'val', 'test')[i // 10]},{'same' if i in (3, 25) else i}"
        for i in range(30)
    ]
    made(folder, csv=table(folder, "\n".join(["file,label,split,group", *lines])))
    assert "1 groups stand in two splits: same" in caplog.text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name,label\nx,a\n", "has no column file; its first line"),
        ("file,label\n", "lists no file"),
        ("", "has no column file nor label"),
        ("file,label\n000.png,a\n001.png,\n", "line 3: no label"),
        (
            "file,label,split\n000.png,a,train\n001.png,b,valid\n",
            "line 3: split is 'valid', none of train, val, test",
        ),
        ("file,label\n000.png,a\n000.png,b\n", "line 3: 000.png stands there twice"),
        ("file,label,split\n000.png,a,train\n001.png,b,val\n", "class b has no file whose split is train"),
        ("file,label\n000.png,a\n999.png,b\n", "max_bad_files: 1 of 2 .*999.png"),
    ],
)
def test_mistakes_in_a_csv(tmp_path: Path, text: str, told: str) -> None:
    folder = fill(tmp_path / "pets", {".": 3})
    with pytest.raises(UserError, match=told) as caught:
        made(folder, csv=table(folder, text))
    assert "\n" not in str(caught.value)


def test_options_out_of_range(tmp_path: Path) -> None:
    folder = fill(tmp_path / "pets", {"a": 1, "b": 1})
    with pytest.raises(UserError, match="fractions"):
        FolderDataModule(folder, fractions=(1, 0, 0))
    with pytest.raises(UserError, match="image_size"):
        FolderDataModule(folder, image_size=0)


def test_the_published_cats_and_dogs(shared_data: Path) -> None:
    data = FolderDataModule(shared_data / "catanddog", image_size=100)
    data.setup()
    assert data.class_names == ["Cat", "Dog"]
    assert data.left_out == []
    of = counts(data)
    assert [train + val for train, val in zip(of["train"], of["val"], strict=True)] == [182, 203]
    assert of["test"] == [49, 49]
    pictures: Any = data.samples("train").pictures
    sizes = pictures.sizes(np.arange(182 + 203 + 98))
    assert sizes[sizes.prod(axis=1).argmin()].tolist() == [71, 96]
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (64, 3, 100, 100)
    assert set(labels.tolist()) == {0, 1}
