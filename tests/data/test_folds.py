"""The folds of a cross-validation against scikit-learn: who is in which, groups, and too many of them."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from image_folders import fill
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from litlens.data.datasets.arrays import DigitsDataModule
from litlens.data.datasets.folder import FolderDataModule
from litlens.data.folds import fold_assignment
from litlens.data.module import ImageDataModule
from litlens.errors import UserError


def fold(data: ImageDataModule, number: int, folds: int) -> ImageDataModule:
    data.divide_by(partial(fold_assignment, number=number, folds=folds, seed=7))
    data.setup("fit")
    return data


def names(data: ImageDataModule) -> dict[str, list[str]]:
    return {split: list(data.samples(split).names) for split in ("train", "val", "test")}


def test_the_folds_are_those_of_scikit_learn_and_the_test_split_stays() -> None:
    usual = DigitsDataModule(seed=7)
    usual.setup("fit")
    labels = {
        name: label
        for split in ("train", "val")
        for name, label in zip(usual.samples(split).names, usual.samples(split).labels, strict=True)
    }
    pool = sorted(labels)
    reference = StratifiedKFold(4, shuffle=True, random_state=7).split(pool, [labels[name] for name in pool])
    for number, (train, val) in enumerate(reference, start=1):
        data = fold(DigitsDataModule(seed=7), number, 4)
        assert names(data) == {
            "train": [pool[k] for k in train],
            "val": [pool[k] for k in val],
            "test": list(usual.samples("test").names),
        }
        place = data.samples("val").names.index(pool[val[3]])
        before = usual.samples("train" if pool[val[3]] in usual.samples("train").names else "val")
        row = before.rows[before.names.index(pool[val[3]])]
        assert np.array_equal(data.image("val", place), before.images.batch(np.array([row]))[0])
        assert data.samples("val").labels[place] == labels[pool[val[3]]]


def test_the_constants_of_a_fold_are_of_its_training_images() -> None:
    data = fold(DigitsDataModule(seed=7), 2, 4)
    split = data.samples("train")
    mean = split.images.batch(split.rows).mean() / 255
    assert data.preprocessing.normalize.mean == pytest.approx((mean,), rel=1e-9)


@pytest.fixture
def patients(tmp_path: Path) -> Path:
    """A CSV of ten patients with three images of each class; two of them are for test."""
    fill(tmp_path / "images", {"healthy": 30, "ill": 30})
    rows = [
        f"{label}/{number:03}.png,{label},{'test' if number < 6 else 'train'},patient {number // 3}"
        for label in ("healthy", "ill")
        for number in range(30)
    ]
    path = tmp_path / "images.csv"
    path.write_text("\n".join(["file,label,split,group", *rows]))
    return path


def test_no_group_is_divided(patients: Path) -> None:
    def data() -> FolderDataModule:
        return FolderDataModule(patients.parent / "images", csv=patients, image_size=8)

    held_out = []
    for number in range(1, 5):
        found = fold(data(), number, 4)
        groups = {split: set(found.samples(split).groups or ()) for split in ("train", "val", "test")}
        assert groups["test"] == {"patient 0", "patient 1"}
        assert not groups["train"] & groups["val"]
        assert len(groups["train"] | groups["val"]) == 8
        held_out += found.samples("val").names
    pool = sorted(held_out)
    assert len(set(pool)) == 48
    reference = StratifiedGroupKFold(4, shuffle=True, random_state=7).split(
        pool, ["ill" in name for name in pool], [int(name[-7:-4]) // 3 for name in pool]
    )
    assert held_out == [pool[k] for _, val in reference for k in val]
    with pytest.raises(UserError, match="class healthy has 8 groups in training and validation: use at most 8"):
        fold(data(), 1, 9)


def test_too_many_folds_of_given_splits_are_one_line(tmp_path: Path) -> None:
    """Both folders count: five images of dogs in train/ and one in val/."""
    counts = {"train/cat": 9, "train/dog": 5, "val/cat": 3, "val/dog": 1, "test/cat": 9, "test/dog": 9}
    data = FolderDataModule(fill(tmp_path, counts), image_size=8)
    with pytest.raises(UserError) as raised:
        fold(data, 1, 7)
    assert str(raised.value) == "folds: 7: class dog has 6 images in training and validation: use at most 6 folds"
