"""A folder of images: its layouts, and every mistake that it can contain."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_folders import counts, draw, fill, set_up
from lightning.pytorch.cli import LightningArgumentParser
from PIL import Image

from litlens.data.datasets.folder import FolderDataModule
from litlens.data.preprocessing import Preprocessing
from litlens.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LITLENS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_flat_folder_is_split_6_3_1(tmp_path: Path) -> None:
    data = set_up(fill(tmp_path / "pets", {"dog": 20, "cat": 30}), seed=3)
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
    again, other = set_up(tmp_path / "pets", seed=3), set_up(tmp_path / "pets", seed=4)
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
def test_missing_splits_are_taken_from_train(
    tmp_path: Path, given: dict[str, int], expected: dict[str, list[int]]
) -> None:
    wanted = {f"{split}/{name}": count for split, count in given.items() for name in "ab"}
    data = set_up(fill(tmp_path / "pets", wanted))
    assert counts(data) == expected
    for split in set(given) - {"train"}:
        assert all(name.startswith(f"{split}/") for name in data.samples(split).names)


def test_only_names_are_read_on_construction(tmp_path: Path) -> None:
    for name in ("b", "a", ".hidden"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        (tmp_path / "pets" / name / "x.jpg").write_text("not an image")
    data = FolderDataModule(tmp_path / "pets", image_size=(10, 20), channels=1)
    assert (data.class_names, data.image_size, data.in_channels) == (["a", "b"], (10, 20), 1)


def test_hidden_files_are_skipped_and_deep_ones_found(tmp_path: Path) -> None:
    folder = fill(tmp_path / "pets", {"a": 20, "b/deep/deeper": 20})
    # What Windows and macOS write next to images, and into archives.
    for name in ("a/.DS_Store", "a/Thumbs.db", "b/deep/desktop.ini", "a/._000.png", "a/__MACOSX/b.png", "__MACOSX/x"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    (folder / "b" / "round").symlink_to(folder / "b")
    (folder / "README.txt").write_text("not in a class folder")
    data = set_up(folder)
    assert data.class_names == ["a", "b"]
    assert data.left_out == []
    assert data.fingerprint()["files"] == 40
    assert sum(len(data.samples(split)) for split in ("train", "val", "test")) == 40
    assert "b/deep/deeper/000.png" in [n for s in ("train", "val", "test") for n in data.samples(s).names]


def test_bad_files_in_training_are_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = fill(tmp_path / "pets", {"a": 50, "b": 50})
    (folder / "a" / "note.txt").write_bytes(b"\xd0\xcf\x11\xe0")
    (folder / "b" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    data = set_up(folder, max_bad_files=0.02)
    assert data.left_out == ["a/note.txt (not an image)", "b/gone.jpg (No such file or directory)"]
    assert "left out 2 of 102: a/note.txt (not an image); b/gone.jpg" in caplog.text
    assert counts(data) == {"train": [30, 30], "val": [15, 15], "test": [5, 5]}
    assert set_up(folder, max_bad_files=0.02).left_out == data.left_out  # from the cache as well
    with pytest.raises(UserError, match=r"max_bad_files: 2 of 102 files in train .*1\.00%: a/note\.txt"):
        set_up(folder)


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_bad_file_in_val_or_test_is_an_error(tmp_path: Path, split: str) -> None:
    folder = fill(tmp_path / "pets", {f"{s}/{name}": 5 for s in ("train", "val", "test") for name in "ab"})
    (folder / split / "a" / "empty.jpg").touch()
    with pytest.raises(UserError, match=rf"in val or test: {split}/a/empty\.jpg \(an empty file\)"):
        set_up(folder, max_bad_files=1.0)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, "does not exist; check the path"),
        ({".": 3}, "has no class folders"),
        ({"a": 3}, "has one class only, a"),
        ({"a": 3, "b": 0}, "the class folder .*b is empty"),
        ({"train/a": 3, "train/b": 0}, "the class folder .*b is empty"),
        ({"train/a": 3, "val/a": 3, "val/b": 3}, "class b has no training image"),
        ({"val/a": 3, "test/b": 3}, "has val and test but no train"),
        (
            {"train/a": 3, "train/b": 3, "holdout/a": 3},
            "holdout next to train, which is the name of a split; .* validation",
        ),
        ({"bus": 3, "car": 3, "Train": 3}, "bus, car next to Train, .* if Train is a class, give data.splits={}"),
        ({"train/a": 3, "train/b": 3, "valid/a": 3, "val/a": 3}, "val and valid are both names of the split val"),
        ({"train/a": 3, "train/b": 3, "test": 3}, "test has no class folders"),
    ],
)
def test_mistakes_have_their_own_message(tmp_path: Path, counts: dict[str, int], message: str) -> None:
    folder = fill(tmp_path / "pets", counts)
    for name in counts:
        (folder / name).mkdir(parents=True, exist_ok=True)
    with pytest.raises(UserError, match=message) as caught:
        set_up(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "found", "line"),
    [
        ({"a": 5, "b": 5}, {"train": [3, 3], "val": [1, 2], "test": [1]}, "few images: test has none of b; add some"),
        (
            {"a": 4, "b": 1},
            {"train": [2, 1], "val": [1], "test": [1]},
            "few images: val has none of b, and test has none of b; add some",
        ),
        (
            {"a": 1, "b": 1},
            {"train": [1, 1], "val": [], "test": []},
            "few images: val has none of a, b, and test has none of a, b; add some",
        ),
        ({"a": 10, "b": 10}, {"train": [6, 6], "val": [3, 3], "test": [1, 1]}, ""),
    ],
)
def test_a_small_folder_is_split_and_one_line_says_what_is_small(
    given: dict[str, int],
    found: dict[str, list[int]],
    line: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert counts(set_up(fill(tmp_path / "pets", given))) == found
    assert caplog.messages == ([f"{tmp_path / 'pets'}: {line}"] if line else [])


def test_a_folder_without_images(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / "pets" / name).mkdir(parents=True)
        (tmp_path / "pets" / name / "note.txt").write_text("x")
    with pytest.raises(UserError, match=r"has no readable image: a/note\.txt \(not an image\), b/note\.txt"):
        set_up(tmp_path / "pets")


def test_a_class_whose_training_images_are_all_bad(tmp_path: Path) -> None:
    folder = fill(tmp_path / "pets", {"a": 20})
    (folder / "b").mkdir()
    (folder / "b" / "x.jpg").write_text("x")
    with pytest.raises(UserError, match="class b has no training image"):
        set_up(folder, max_bad_files=0.5)


def test_a_file_instead_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "pets").touch()
    with pytest.raises(UserError, match="is a file, not a folder"):
        set_up(tmp_path / "pets")


def test_a_crop_that_is_not_drawn_leaves_the_image_that_evaluation_sees(tmp_path: Path) -> None:
    for name in "ab":
        for number in range(10):
            path = tmp_path / "pets" / name / f"{number}.png"
            draw(path, size=(40, 20))
            with Image.open(path) as image:
                image.paste((200, 200, 200), (0, 0, 10, 20))  # what a crop of the center leaves out
                image.save(path)
    for resize_mode in ("crop", "squash"):
        data = set_up(tmp_path / "pets", augment=[{"crop": {"p": 0}}], resize_mode=resize_mode)
        np.testing.assert_array_equal(data.augmented(0, epoch=0), data.image("train", 0))


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),
        ("Training", "Validation", "Testing"),
        ("TRAIN", "valid", "TEST"),
        ("training_set", "val_set", "test_set"),
        ("trainset", "validationset", "testset"),
        ("Training Set", "Valid-Set", "Test Set"),
    ],
)
def test_splits_under_their_usual_names(tmp_path: Path, train: str, val: str, test: str) -> None:
    folder = fill(
        tmp_path / "pets", {f"{top}/{name}": n for top, n in ((train, 6), (val, 3), (test, 2)) for name in "ab"}
    )
    data = set_up(folder)
    assert data.class_names == ["a", "b"]
    assert counts(data) == {"train": [6, 6], "val": [3, 3], "test": [2, 2]}
    assert data.samples("test").names[0] == f"{test}/a/000.png"


def test_splits_under_other_names(tmp_path: Path) -> None:
    folder = fill(tmp_path / "pets", {f"{top}/{name}": n for top, n in (("part1", 6), ("dev", 3)) for name in "ab"})
    assert counts(set_up(folder, splits={"train": "part1", "test": "dev"}))["test"] == [3, 3]
    with pytest.raises(UserError, match=r"data\.splits: there is no folder .*part2"):
        set_up(folder, splits={"train": "part2"})
    with pytest.raises(UserError, match=r"data\.splits: dev is not a split; the keys are train, val, test"):
        set_up(folder, splits={"dev": "dev"})


def test_a_class_called_train(tmp_path: Path) -> None:
    folder = fill(tmp_path / "traffic", {"bus": 10, "car": 10, "train": 10})
    assert counts(set_up(folder, splits={}))["test"] == [1, 1, 1]
    lines = [f"{path.relative_to(folder)},{path.parent.name}" for path in sorted(folder.glob("*/*"))]
    (tmp_path / "traffic.csv").write_text("\n".join(["file,label", *lines]))
    assert set_up(folder, csv=tmp_path / "traffic.csv").class_names == ["bus", "car", "train"]


def test_12_bit_values_are_reported_and_read_by_value_range(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    for number in range(40):
        pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
        for top, image in (("eight", pixels), ("twelve", pixels.astype(np.uint16) * 16)):
            path = tmp_path / top / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    set_up(tmp_path / "eight", channels=1)
    assert caplog.text == ""
    for _ in range(2):  # decoded, then from the cache
        caplog.clear()
        set_up(tmp_path / "twelve", channels=1)
        assert "16-bit values from 0 to 4080 only become the gray levels 0 to 16 of 255" in caplog.text
        assert "give value_range: [0, 4095]" in caplog.text
    caplog.clear()
    data = set_up(tmp_path / "twelve", channels=1, value_range=(0, 4080))
    assert caplog.text == ""
    assert Preprocessing.from_dict(data.preprocessing.to_dict()).value_range == (0, 4080)
    same = set_up(tmp_path / "eight", channels=1)
    for index in range(len(data.samples("test"))):
        np.testing.assert_array_equal(data.image("test", index), same.image("test", index))
    row = int(data.samples("test").rows[0])
    np.testing.assert_array_equal(data.samples("test").images.original(row), data.image("test", 0))
    with pytest.raises(UserError, match=r"data\.value_range: \[9, 9\]"):
        set_up(tmp_path / "twelve", channels=1, value_range=(9, 9))


CLASSES = ["owl", "dog", "cat"]
IMAGENET = {"mean": [0.5], "std": [0.5]}


@pytest.mark.parametrize(
    ("tree", "given", "expected"),
    [
        ({"test/cat": 3, "test/dog": 2, "test/owl": 1}, ["test"], {"test": [1, 2, 3], "all": [1, 2, 3]}),
        ({"cat": 3, "dog": 2, "owl": 1}, [], {"all": [1, 2, 3]}),
        ({"cat": 3, "dog": 2}, [], {"all": [0, 2, 3]}),
        ({"train/dog": 4, "test/owl": 1}, ["train", "test"], {"test": [1, 0, 0], "all": [1, 4, 0]}),
    ],
)
def test_with_class_names_any_part_of_the_classes_can_be_evaluated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, tree: dict[str, int], given: list[str], expected: dict[str, Any]
) -> None:
    data = set_up(fill(tmp_path / "other", tree), class_names=CLASSES, normalize=IMAGENET)
    assert data.class_names == CLASSES
    assert data.given_splits == given
    for split, of_class in expected.items():
        assert np.bincount(data.samples(split).labels, minlength=3).tolist() == of_class
        data.test_on(split)
        assert sum(len(labels) for _, labels in data.test_dataloader()) == sum(of_class)
    absent = [name for name, count in zip(CLASSES, expected["all"], strict=True) if count == 0]
    assert (", ".join(absent) in caplog.text) if absent else caplog.text == ""
    if absent or given == ["test"]:
        with pytest.raises(UserError, match=r"has no training image|has test but no train"):
            data.train_dataloader()


def test_with_class_names_a_csv_of_test_rows_can_be_evaluated(tmp_path: Path) -> None:
    folder = fill(tmp_path / "pets", {".": 3})
    (tmp_path / "rows.csv").write_text("file,label,split\n000.png,cat,test\n001.png,owl,test\n002.png,cat,Testing\n")
    data = set_up(folder, csv=tmp_path / "rows.csv", class_names=CLASSES, normalize=IMAGENET)
    assert data.samples("test").labels.tolist() == [2, 0, 2]


def test_class_names_give_the_order_of_the_classes(tmp_path: Path) -> None:
    folder = fill(tmp_path / "pets", {"cat": 20, "dog": 10, "owl": 10})
    data = set_up(folder, class_names=CLASSES, batch_size=8)
    assert counts(data)["test"] == [1, 1, 2]
    assert len(data.train_dataloader()) > 0


def test_class_names_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    folder = fill(tmp_path / "pets", {"cat": 3, "dgo": 3})
    with pytest.raises(UserError, match=r"data\.class_names: .* the class dgo, .* did you mean 'dog'"):
        FolderDataModule(folder, class_names=CLASSES)
    with pytest.raises(UserError, match="given twice"):
        FolderDataModule(folder, class_names=["cat", "dgo", "cat"])


def test_a_folder_in_the_home_folder_and_one_called_2024(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "2024", {"a": 10, "b": 10})
    (tmp_path / "t.csv").write_text("file,label\n" + "".join(f"{c}/00{i}.png,{c}\n" for c in "ab" for i in range(10)))
    everywhere: list[Any] = [set_up(folder) for folder in ("~/2024", 2024)]
    everywhere.append(set_up("~/2024", csv="~/t.csv"))
    for data in everywhere:
        assert counts(data) == {"train": [6, 6], "val": [3, 3], "test": [1, 1]}


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


def test_a_folder_called_2024_in_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "2024", {"a": 1, "b": 1})
    (tmp_path / "c.yaml").write_text("data: {class_path: FolderDataModule, init_args: {folder: 2024}}")
    for options in (["--config", "c.yaml"], ["--data=FolderDataModule", "--data.folder=2024"]):
        parser = LightningArgumentParser(exit_on_error=False)
        parser.add_argument("--config", action="config")
        parser.add_lightning_class_args(FolderDataModule, "data", subclass_mode=True)
        data = parser.instantiate(parser.parse_args(options)).data
        assert data.folder == Path("2024")
