"""A CSV instead of a tree of classes, and every mistake that it can contain."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from image_folders import counts, fill, set_up

from litlens.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LITLENS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def table(folder: Path, text: str) -> Path:
    (folder / "table.csv").write_text(text, encoding="utf-8")
    return folder / "table.csv"


def test_a_folder_and_its_csv_are_the_same_data_in_any_place(tmp_path: Path) -> None:
    folder = fill(tmp_path / "here" / "pets", {"x": 12})
    csv = table(tmp_path, "\n".join(["file,label", *(f"x/{i:03}.png,{'ab'[i % 2]}" for i in range(12))]))
    before = set_up(folder, csv=csv).fingerprint()
    (tmp_path / "lists" / "old").mkdir(parents=True)
    moved = csv.rename(tmp_path / "lists" / "old" / csv.name)
    assert set_up(folder.rename(tmp_path / "pets"), csv=moved).fingerprint()["content"] == before["content"]


def test_a_csv_with_groups_keeps_each_in_one_split(tmp_path: Path) -> None:
    folder = fill(tmp_path / "pets", {".": 60})
    lines = [f'"{i:03}.png", {"ab"[i % 2]}, patient {i // 4}' for i in range(60)]
    data = set_up(folder, csv=table(folder, "\n".join(["\ufefffile,label,group", *lines])))
    assert data.class_names == ["a", "b"]
    homes = [set(data.samples(split).groups or ()) for split in ("train", "val", "test")]
    assert [len(home) for home in homes] == [9, 5, 1]  # of 15 groups; exactly 9, 4.5 and 1.5
    assert set.union(*homes) == {f"patient {i}" for i in range(15)}


def test_a_csv_with_splits(tmp_path: Path) -> None:
    folder = fill(tmp_path / "pets", {"x": 12})
    lines = [f"x/{i:03}.png,{'ab'[i % 2]},{'train' if i < 9 else 'test'}" for i in range(12)]
    data = set_up(folder, csv=table(tmp_path, "\n".join(["file,label,split", *lines])))
    assert data.samples("test").names == ["x/009.png", "x/010.png", "x/011.png"]
    assert counts(data) == {"train": [3, 3], "val": [2, 1], "test": [1, 2]}


def test_files_of_the_system_in_a_csv_are_ignored(tmp_path: Path) -> None:
    folder = fill(tmp_path / "pets", {"x": 20})
    names = [f"{i:03}.png" for i in range(20)] + ["Thumbs.db", "._000.png"]
    lines = [f"x/{name},{'ab'[i % 2]}" for i, name in enumerate(names)]
    data = set_up(folder, csv=table(tmp_path, "\n".join(["file,label", *lines])))
    assert counts(data) == {"train": [6, 6], "val": [3, 3], "test": [1, 1]}
    assert data.left_out == []


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fill(tmp_path / "pets", {"a": 10, "b/deep": 10})
    scandir = os.scandir

    def fails(path: str) -> Any:
        if str(path).endswith("deep"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fails)
    with pytest.raises(UserError, match=r"data\.folder: .*pets/b/deep cannot be read \(Permission denied\)"):
        set_up(folder)


def test_groups_in_two_given_splits_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = fill(tmp_path / "pets", {".": 30})
    lines = [
        f"{i:03}.png,{'ab'[i % 2]},{('train', 'val', 'test')[i // 10]},{'same' if i in (3, 25) else i}"
        for i in range(30)
    ]
    set_up(folder, csv=table(folder, "\n".join(["file,label,split,group", *lines])))
    assert "1 groups are in two splits: same" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,label\nx,a\n", "has no column file; its first line"),
        ("file,label\n", "lists no files"),
        ("", "has no column file nor label"),
        ("file,label\n000.png,a\n001.png,\n", "line 3: the label is empty"),
        (
            "file,label,split\n000.png,a,train\n001.png,b,dev\n",
            "line 3: split 'dev' is not one of train, training, val, valid, validation",
        ),
        ("file,label\n000.png,a\n000.png,b\n", "line 3: 000.png is listed twice"),
        ("file,label,split\n000.png,a,train\n001.png,b,val\n", "class b has no training image"),
        ("file,label\n000.png,a\n999.png,b\n", "max_bad_files: 1 of 2 .*999.png"),
        (
            'file,label\n000.png,a\n"001.png,b\n' + 20_000 * "002.png,c\n",
            "begins in line 3 cannot be read .field larger",
        ),
        (f"file,label\n000.png,a\n001.png,{200_000 * 'b'}\n", "begins in line 3 cannot be read .field larger"),
        (f"file,{200_000 * 'b'}\n", "begins in line 1 cannot be read .field larger"),
    ],
)
def test_mistakes_in_a_csv(tmp_path: Path, text: str, message: str) -> None:
    folder = fill(tmp_path / "pets", {".": 3})
    with pytest.raises(UserError, match=message) as caught:
        set_up(folder, csv=table(folder, text))
    assert "\n" not in str(caught.value)
