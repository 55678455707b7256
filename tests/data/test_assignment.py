"""Splits of an earlier run, kept by data of every kind: in memory, in files, by groups, and read back from a table."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_folders import fill

from litlens.data.assignment import Sample, Seen, SplitAssignment
from litlens.data.datasets.arrays import DigitsDataModule, MNISTDataModule
from litlens.data.datasets.folder import FolderDataModule
from litlens.data.datasets.fonts import FontsDataModule
from litlens.data.module import SPLITS, ImageDataModule
from litlens.data.split import ArrayImages, Split
from litlens.errors import UserError


class Shuffled(ImageDataModule):
    """A stranger's data module: each split is an array of its own."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.class_names, self.in_channels, self.image_size = ["a", "b"], 1, (1, 1)

    def load(self) -> dict[str, Split]:
        order = np.random.default_rng(self.seed).permutation(30)
        parts = zip(SPLITS, np.split(order, [18, 27]), strict=True)
        return {
            split: Split(
                ArrayImages(part.astype(np.uint8).reshape(-1, 1, 1, 1)),
                rows=np.arange(len(part)),
                labels=part % 2,
                names=[str(number) for number in part],
            )
            for split, part in parts
        }


def groups(folder: Path) -> FolderDataModule:
    return FolderDataModule(folder / "pets", image_size=8, csv=folder / "table.csv")


KINDS: dict[str, Callable[[Path, int], ImageDataModule]] = {
    "digits": lambda _, seed: DigitsDataModule(seed=seed),
    "mnist": lambda place, seed: MNISTDataModule(place / "data", seed=seed),
    "fonts": lambda place, seed: FontsDataModule(place / "data", image_size=(8, 8), seed=seed),
    "folder": lambda place, seed: FolderDataModule(place / "data" / "catdog_2k", image_size=8, seed=seed),
    "folder with splits": lambda place, seed: FolderDataModule(place / "data" / "catanddog", image_size=8, seed=seed),
    "arrays of a stranger": lambda _, seed: Shuffled(seed=seed),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("late", [False, True])
def test_data_of_every_kind_keep_their_splits(kind: str, late: bool, stand_ins: Path, tmp_path: Path) -> None:
    first, again = (KINDS[kind](stand_ins, seed) for seed in (0, 1))
    first.setup()
    first.assignment().write(tmp_path / "splits.csv")
    kept = SplitAssignment.read(tmp_path / "splits.csv", otherwise="")
    assert kept.samples == first.assignment().samples
    if late:
        again.setup()
        assert list(again.samples("val").names) != list(first.samples("val").names)
        again.keep_splits(kept)
    else:
        again.keep_splits(kept)
        again.setup()
    assert again.not_in_run == []
    for split in SPLITS:
        before, now = first.samples(split), again.samples(split)
        assert list(now.names) == list(before.names)
        assert now.groups == before.groups
        np.testing.assert_array_equal(now.labels, before.labels)
        np.testing.assert_array_equal(now.images.batch(now.rows), before.images.batch(before.rows))


def test_groups_of_a_table_stay_together(tmp_path: Path) -> None:
    fill(tmp_path / "pets", {".": 60})
    rows = [f"{i:03}.png,{'ab'[i % 2]},{i // 4}" for i in range(60)]
    (tmp_path / "table.csv").write_text("\n".join(["file,label,group", *rows]))
    first = groups(tmp_path)
    first.setup()
    # One image is labeled anew, one file is gone, and there is a new one.
    rows[7], rows[8] = rows[7].replace(",b,", ",a,"), "new.png,a,2"
    (tmp_path / "pets" / "008.png").rename(tmp_path / "pets" / "new.png")
    (tmp_path / "table.csv").write_text("\n".join(["file,label,group", *rows]))
    again = groups(tmp_path)
    again.keep_splits(first.assignment())
    with pytest.raises(UserError) as caught:
        again.setup()
    line = str(caught.value)
    assert line.startswith("data: 2 of the 60 images of the run are missing or have changed: ")
    assert "007.png (labeled a instead of b)" in line
    assert "008.png (missing or damaged)" in line
    again = groups(tmp_path)
    again.keep_splits(first.assignment().without(["007.png", "008.png"]))
    again.setup()
    assert again.not_in_run == ["007.png", "new.png"]
    homes = [set(again.samples(split).groups or ()) for split in SPLITS]
    assert sum(map(len, homes)) == len(set.union(*homes)) == 15


def test_any_name_is_read_back(tmp_path: Path) -> None:
    names = ["a,b", 'a"b', "a\nb", "a\r\nb", " a ", "", "=1+1", "é\udce9", "\\xff", "name"]
    samples = [Sample(name, f"class {name}", SPLITS[i % 3], f"file:{i}") for i, name in enumerate(names)]
    SplitAssignment(samples).write(tmp_path / "splits.csv")
    assert SplitAssignment.read(tmp_path / "splits.csv", otherwise="").samples == samples


def test_images_are_counted_by_content() -> None:
    splits = ["train", "train", "val", "test", "train"]
    hashes = ["file:a", "file:b", "file:c", "file:d", "file:a"]
    run = SplitAssignment([Sample(str(i), "x", *both) for i, both in enumerate(zip(splits, hashes, strict=True))])
    assert run.seen(["file:a", "file:a", "file:c", "file:d", "file:e"]) == Seen(in_train=2, in_val=1)
    assert run.seen([]) == Seen(0, 0)
    # Bytes of a file say nothing about an array of pixels.
    assert run.seen(["pixels:a"]) is None
