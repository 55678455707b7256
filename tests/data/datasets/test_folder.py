"""A folder of images, with all that can be wrong with one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_folders import counts, draw, fill, made
from PIL import Image

from litlens.data.datasets.folder import FolderDataModule
from litlens.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LITLENS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_flat_folder_is_cut_6_3_1(tmp_path: Path) -> None:
    data = made(fill(tmp_path / "pets", {"dog": 20, "cat": 30}), seed=3)
    assert (data.class_names, data.num_classes) == (["cat", "dog"], 2)
    assert counts(data) == {"train": [18, 12], "val": [9, 6], "test": [3, 2]}
    names = [name for split in ("train", "val", "test") for name in data.samples(split).names]
    assert len(set(names)) == 50
    assert "cat/000.png" in names
    # An image's color says which file it is: names, labels and pixels belong together.
    value = {f"dog/{i:03}.png": i + 1 for i in range(20)} | {f"cat/{i:03}.png": i + 21 for i in range(30)}
    for split in ("train", "val", "test"):
        samples = data.samples(split)
        for index, (name, label) in enumerate(zip(samples.names, samples.labels, strict=True)):
            assert data.image(split, index)[0, 0].tolist() == [value[name], 100, 0]
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
        (tmp_path / "pets" / name / "x.jpg").write_text("no image")
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
    assert data.left_out == ["a/Thumbs.db (not an image)", "b/gone.jpg (No such file or directory)"]
    assert "left out 2 of 102: a/Thumbs.db (not an image); b/gone.jpg" in caplog.text
    assert counts(data) == {"train": [30, 30], "val": [15, 15], "test": [5, 5]}
    assert made(folder, max_bad_files=0.02).left_out == data.left_out  # from the cache as well
    with pytest.raises(UserError, match=r"max_bad_files: 2 of 102 files in train .*1\.00%: a/Thumbs\.db"):
        made(folder)


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


def test_a_folder_without_images(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / "pets" / name).mkdir(parents=True)
        (tmp_path / "pets" / name / "note.txt").write_text("x")
    with pytest.raises(UserError, match=r"holds no image: a/note\.txt \(not an image\), b/note\.txt"):
        made(tmp_path / "pets")


def test_a_class_whose_training_images_are_all_bad(tmp_path: Path) -> None:
    folder = fill(tmp_path / "pets", {"a": 20})
    (folder / "b").mkdir()
    (folder / "b" / "x.jpg").write_text("x")
    with pytest.raises(UserError, match="no training image of class b is left"):
        made(folder, max_bad_files=0.5)


def test_a_file_instead_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "pets").touch()
    with pytest.raises(UserError, match="is a file, not a folder"):
        made(tmp_path / "pets")


def test_a_crop_that_is_not_drawn_leaves_the_image_that_evaluation_sees(tmp_path: Path) -> None:
    for name in "ab":
        for number in range(10):
            path = tmp_path / "pets" / name / f"{number}.png"
            draw(path, size=(40, 20))
            with Image.open(path) as image:
                image.paste((200, 200, 200), (0, 0, 10, 20))  # what a crop of the center leaves out
                image.save(path)
    for resize_mode in ("crop", "squash"):
        data = made(tmp_path / "pets", augment=[{"crop": {"p": 0}}], resize_mode=resize_mode)
        np.testing.assert_array_equal(data.augmented(0, epoch=0), data.image("train", 0))


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
    images: Any = data.samples("train").images
    sizes = images.sizes(np.arange(182 + 203 + 98))
    assert sizes[sizes.prod(axis=1).argmin()].tolist() == [71, 96]
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (64, 3, 100, 100)
    assert set(labels.tolist()) == {0, 1}
