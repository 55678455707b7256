"""Which files a folder or a CSV lists, of which class and in which split; none of them is opened."""

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from litlens.data.module import SPLITS
from litlens.errors import UserError


@dataclass(frozen=True)
class Listing:
    """Files in a fixed order: file i is called `names[i]`, is of class `labels[i]` and stands in `splits[i]`.

    `splits` holds nothing where the splits are still to be cut, and `groups` nothing where there are none.
    """

    files: list[Path]
    names: list[str]
    labels: NDArray[np.int64]
    splits: list[str] | None
    groups: list[str] | None


def class_folders(folder: Path) -> list[str]:
    """The class names of `folder/CLASS` or `folder/{train,val,test}/CLASS`, sorted.

    Raises:
        UserError: There is no such folder, or it is laid out otherwise.
    """
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "is not there"
        raise UserError(f"data.folder: {folder} {what} (looked for it from {Path.cwd()})")
    tops = _split_folders(folder) or {"": folder}
    names = sorted({path.name for top in tops.values() for path in _subfolders(top)})
    if not names:
        raise UserError(
            f"data.folder: {folder} has no folder of a class; "
            "lay the images out as folder/CLASS/* or folder/{train,val,test}/CLASS/*, or give data.csv"
        )
    return names


def list_folder(folder: Path, *, class_names: list[str]) -> Listing:
    """List `folder/CLASS/**` or `folder/{train,val,test}/CLASS/**`, sorted; hidden files are left out.

    Raises:
        UserError: A class folder is empty, or a class is missing from train.
    """
    files: list[Path] = []
    labels: list[int] = []
    splits: list[str] = []
    tops = _split_folders(folder)
    for split, top in (tops or {"": folder}).items():
        for path in _subfolders(top):
            found = sorted(_files_below(path), key=lambda file: file.relative_to(folder).as_posix())
            if not found:
                raise UserError(f"data.folder: the class folder {path} is empty; fill it or remove it")
            files += found
            labels += [class_names.index(path.name)] * len(found)
            splits += [split] * len(found)
    if tops:
        for name in class_names:
            if not (folder / "train" / name).is_dir():
                where = next(split for split, top in tops.items() if (top / name).is_dir())
                raise UserError(f"data.folder: class {name} stands in {folder / where} but not in {folder / 'train'}")
    return Listing(
        files=files,
        names=[file.relative_to(folder).as_posix() for file in files],
        labels=np.array(labels, dtype=np.int64),
        splits=splits if tops else None,
        groups=None,
    )


def csv_classes(table: Path) -> list[str]:
    """The labels that stand in a CSV, sorted."""
    return sorted({row["label"] for _, row in _rows(table)})


def list_csv(table: Path, *, folder: Path, class_names: list[str]) -> Listing:
    """List a CSV with columns file and label, and optionally split and group; files are relative to `folder`.

    Raises:
        UserError: A column, a label or a split is missing or unknown, or a file stands there twice.
    """
    rows = list(_rows(table))
    columns = set(rows[0][1])
    names = [row["file"] for _, row in rows]
    seen: set[str] = set()
    for line, row in rows:
        if row["file"] in seen:
            raise UserError(f"data.csv: {table} line {line}: {row['file']} stands there twice")
        seen.add(row["file"])
        if "split" in columns and row["split"] not in SPLITS:
            raise UserError(
                f"data.csv: {table} line {line}: split is {row['split']!r}, none of {', '.join(SPLITS)}; "
                "leave the column out to have the splits cut"
            )
    splits = [row["split"] for _, row in rows] if "split" in columns else None
    if splits is not None:
        training = {row["label"] for _, row in rows if row["split"] == "train"}
        if missing := [name for name in class_names if name not in training]:
            raise UserError(f"data.csv: {table}: class {missing[0]} has no file whose split is train")
    return Listing(
        files=[folder / name for name in names],
        names=names,
        labels=np.array([class_names.index(row["label"]) for _, row in rows], dtype=np.int64),
        splits=splits,
        groups=[row["group"] for _, row in rows] if "group" in columns else None,
    )


def _split_folders(folder: Path) -> dict[str, Path]:
    """The folders of the splits, none where `folder` holds the classes themselves."""
    tops = {split: folder / split for split in SPLITS if (folder / split).is_dir()}
    if not tops:
        return {}
    if "train" not in tops:
        raise UserError(f"data.folder: {folder} has {' and '.join(tops)} but no train")
    if strangers := [path.name for path in _subfolders(folder) if path.name not in tops]:
        raise UserError(
            f"data.folder: {folder / strangers[0]} stands beside {', '.join(tops)}; "
            f"splits are called {', '.join(SPLITS)}: rename it, or move it elsewhere"
        )
    return tops


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _files_below(folder: Path) -> Iterator[Path]:
    """Every file at any depth, links that lead nowhere among them."""
    visited: set[str] = set()
    for place, subfolders, files in os.walk(folder, followlinks=True):
        # A link to a folder above would go round for ever.
        visited.add(os.path.realpath(place))
        subfolders[:] = [
            name
            for name in subfolders
            if not name.startswith(".") and os.path.realpath(Path(place) / name) not in visited
        ]
        yield from (Path(place) / name for name in files if not name.startswith("."))


def _rows(table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV with their line numbers, spaces around values removed."""
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"data.csv: {table} cannot be read ({error}); it must be a UTF-8 text file") from error
    reader: csv.DictReader[str] = csv.DictReader(StringIO(text), skipinitialspace=True)
    try:
        yield from _checked_rows(reader, table=table)
    except csv.Error as error:
        # The reader counts a row's lines when the row has come to its end, which this one does not.
        line = reader.line_num + 1
        raise UserError(
            f"data.csv: {table}: the row that begins in line {line} cannot be read ({error}); "
            "close its quotes, or shorten it"
        ) from error


def _checked_rows(reader: "csv.DictReader[str]", *, table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a reader with their line numbers, none without a file and a label."""
    columns = [(name or "").strip() for name in reader.fieldnames or []]
    reader.fieldnames = columns
    if missing := {"file", "label"} - set(columns):
        raise UserError(
            f"data.csv: {table} has no column {' nor '.join(sorted(missing))}; its first line names them: "
            "file,label and optionally split and group"
        )
    wanted: list[str] = [name for name in ("file", "label", "split", "group") if name in columns]
    empty = True
    for row in reader:
        values = {name: (row[name] or "").strip() for name in wanted}
        for name, value in values.items():
            if not value:
                raise UserError(f"data.csv: {table} line {reader.line_num}: no {name}")
        empty = False
        yield reader.line_num, values
    if empty:
        raise UserError(f"data.csv: {table} lists no file")
