"""What every data module promises, on the digits."""

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from litlens.data.datasets.arrays import DigitsDataModule
from litlens.data.duplicates import shared_between_splits
from litlens.data.module import ImageDataModule
from litlens.data.split import ArrayImages, Split
from litlens.errors import UserError


class Gray(ImageDataModule):
    """Twelve images of one gray value each, without a file."""

    def __init__(self, values: list[int], **options: Any) -> None:
        super().__init__(**options)
        self.class_names, self.in_channels, self.image_size = ["a", "b"], 1, (2, 2)
        self.values = values

    def load(self) -> dict[str, Split]:
        images = ArrayImages(np.repeat(np.array(self.values, np.uint8), 4).reshape(-1, 2, 2, 1))
        rows = {"train": np.arange(6), "val": np.arange(6, 9), "test": np.arange(9, 12)}
        return {name: Split(images, part, part % 2, [str(row) for row in part]) for name, part in rows.items()}


def ready(**options: object) -> ImageDataModule:
    data = DigitsDataModule(**options)
    data.prepare_data()
    data.setup("fit")
    return data


def test_auto_statistics_are_those_of_the_training_split_alone() -> None:
    data = ready(seed=5)
    split = data.samples("train")
    pixels = split.images.batch(split.rows) / 255
    assert data.preprocessing.mean[0] == pytest.approx(pixels.mean(), abs=1e-9)
    assert data.preprocessing.std[0] == pytest.approx(pixels.std(), abs=1e-9)
    assert ready(seed=6).preprocessing.mean != data.preprocessing.mean


def test_statistics_of_data_without_files_are_their_own() -> None:
    for values in ([10, 30] * 6, [100, 140] * 6, [10, 30] * 6):
        data = Gray(values)
        data.setup()
        assert data.preprocessing.mean == pytest.approx([sum(values[:2]) / 2 / 255])
        assert data.preprocessing.std == pytest.approx([(values[1] - values[0]) / 2 / 255])


def test_training_batches_have_mean_zero_and_deviation_one() -> None:
    images = np.concatenate([batch[0].numpy() for batch in ready(batch_size=1078).train_dataloader()])
    assert images.mean() == pytest.approx(0, abs=1e-5)
    assert images.std() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size: 0 is less than 1"),
        ({"normalize": "minst"}, "no set is called 'minst'"),
        ({"normalize": {"mean": [0.5]}}, "needs mean and std"),
        ({"normalize": "imagenet"}, "3 values for images of 1 channels"),
        ({"augment": ["rotatoin"]}, "rotation"),
        ({"augment": "rotatoin"}, "no augmentation is called 'rotatoin'; nearest is rotation"),
    ],
)
def test_a_wrong_option_is_one_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        ready(**options)
    assert "\n" not in str(caught.value)


def test_a_batch_larger_than_the_split_is_one_line() -> None:
    with pytest.raises(UserError, match=r"batch_size: 2000 on 1 device.* more than the 1078"):
        ready(batch_size=2000).train_dataloader()


class Files(Gray):
    """Data that come from files; the images play no part."""

    def __init__(self, files: list[Path], **options: Any) -> None:
        super().__init__([0, 1] * 6, **options)
        self.files = files

    def source_files(self) -> list[Path]:
        return self.files


def test_the_fingerprint_knows_in_which_folder_a_file_lies(tmp_path: Path) -> None:
    files = [tmp_path / "here" / name for name in ("a/1.png", "a/2.png", "b/3.png")]
    for number, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes([number]))
    before = Files(files).fingerprint()
    assert (before["files"], before["bytes"]) == (3, 3)
    # A copy of it all has other times, and is the same data.
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    copied = Files([tmp_path / "there" / file.relative_to(tmp_path / "here") for file in files]).fingerprint()
    assert copied["content"] == before["content"]
    # A move from class to class leaves names, sizes and times.
    moved = files[1].rename(tmp_path / "here" / "b" / "2.png")
    after = Files([files[0], moved, files[2]]).fingerprint()
    assert after["stat"] != before["stat"]
    assert after["content"] != before["content"]


def test_a_single_file_and_none_have_a_fingerprint(tmp_path: Path) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "all.npz").write_bytes(b"pixels")
    here, there = (Files([tmp_path / name / "all.npz"]).fingerprint() for name in ("here", "there"))
    assert here["content"] == there["content"] != Files([]).fingerprint()["content"]
    assert (Files([]).fingerprint()["files"], Files([]).fingerprint()["bytes"]) == (0, 0)


def test_files_on_two_drives_have_a_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "all.npz"
    file.write_bytes(b"pixels")

    def on_two_drives(paths: list[Path]) -> str:
        raise ValueError("Paths don't have the same drive")

    monkeypatch.setattr(os.path, "commonpath", on_two_drives)
    assert Files([file]).fingerprint()["bytes"] == 6


def test_the_fingerprint_follows_from_the_files_and_from_no_seed(tmp_path: Path) -> None:
    file = tmp_path / "all.npz"
    file.write_bytes(b"pixels")
    before = Files([file]).fingerprint()
    assert before["content"] == hashlib.blake2b(b"all.npz" + b"pixels", digest_size=16).hexdigest()
    assert Files([file], seed=7).fingerprint() == before
    # Another content of the same size, then the first one again at another time.
    file.write_bytes(b"slexip")
    os.utime(file, (1, 1))
    other = Files([file]).fingerprint()
    assert (other["files"], other["bytes"]) == (before["files"], before["bytes"])
    assert other["content"] != before["content"]
    file.write_bytes(b"pixels")
    os.utime(file, (2, 2))
    again = Files([file]).fingerprint()
    assert again["stat"] not in (before["stat"], other["stat"])
    assert again["content"] == before["content"]


def test_images_in_two_splits_are_found() -> None:
    data = ready()
    assert shared_between_splits(data) == []
    train, test = data.samples("train"), data.samples("test")
    test.rows[7] = train.rows[3]
    assert shared_between_splits(data) == [(train.names[3], test.names[7])]
