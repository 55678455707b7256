"""List the files of a folder or a CSV with their classes and splits, without opening them."""

import csv
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from litlens.data.module import SPLITS
from litlens.data.names import Names
from litlens.errors import UserError, listed
from litlens.files import files_below, is_ignored, is_system_file

_SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
_NAMES_UNDERSTOOD = (
    ", ".join(name for names in _SPLIT_NAMES.values() for name in names)
    + " (also followed by set or _set, in any case)"
)


@dataclass(frozen=True)
class Listing:
    """Files in a fixed order: file i has the name `names[i]`, the class `labels[i]` and the split `splits[i]`.

    `paths` are relative to the folder; a name is its path as it can be printed. `splits` is None if they are to be
    created, and `groups` is None without groups.
    """

    paths: Names
    names: Names
    labels: NDArray[np.int64]
    splits: NDArray[np.object_] | None
    groups: list[str] | None

    def only(self, split_of: Mapping[str, str]) -> "Listing":
        """The files whose names have a split, in those splits."""
        rows = np.flatnonzero([name in split_of for name in self.names])
        names = self.names.at(rows)
        return Listing(
            paths=self.paths.at(rows),
            names=names,
            labels=self.labels[rows],
            splits=np.array([split_of[name] for name in names], dtype=object),
            groups=None if self.groups is None else [self.groups[row] for row in rows],
        )


def class_folders(folder: Path, splits: Mapping[str, str] | None = None) -> list[str]:
    """The class names of `folder/CLASS` or `folder/SPLIT/CLASS`, sorted; bytes that are not UTF-8 are replaced.

    Args:
        folder: The tree of classes.
        splits: The folder of each split, by default those with the usual names of splits; with `{}`, there are none.

    Raises:
        UserError: The folder does not exist, or its layout is neither of the two.
    """
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise UserError(f"data.folder: {folder} {what}; check the path (the working directory is {Path.cwd()})")
    tops = _split_folders(folder, splits) or {"": folder}
    names = set[str]()
    for top in tops.values():
        found = [_readable(path.name) for path in _subfolders(top)]
        if not found:
            raise UserError(
                f"data.folder: {top} has no class folders; "
                "use the layout folder/CLASS/* or folder/{train,val,test}/CLASS/*, or give data.csv"
            )
        if len(set(found)) < len(found):
            raise UserError(
                f"data.folder: {top} has two folders whose names are both read as {_twice(found)}; rename one"
            )
        names.update(found)
    return sorted(names)


def list_folder(folder: Path, *, class_names: list[str], splits: Mapping[str, str] | None = None) -> Listing:
    """List `folder/CLASS/**` or `folder/SPLIT/CLASS/**`, sorted; hidden files and those of the system are left out.

    Raises:
        UserError: A class folder is empty, or a folder cannot be read.
    """
    tops = _split_folders(folder, splits)
    start = len(str(folder / "_")) - 1
    labels, of_split, numbers, plain = list[int](), list[str](), list[int](), list[bool]()

    def below() -> Iterator[str]:
        for split, top in (tops or {"": folder}).items():
            for path in _subfolders(top):
                found = sorted(file[start:].replace(os.sep, "/") for file in files_below(path, key="data.folder"))
                if not found:
                    raise UserError(f"data.folder: the class folder {path} is empty; fill it or remove it")
                labels.append(class_names.index(_readable(path.name)))
                of_split.append(split)
                numbers.append(len(found))
                plain.append(all(map(str.isascii, found)))
                yield from found

    paths = Names(below())
    return Listing(
        paths=paths,
        names=paths if all(plain) else Names(_readable(path, errors="backslashreplace") for path in paths),
        labels=np.repeat(np.array(labels, dtype=np.int64), numbers),
        splits=np.repeat(np.array(of_split, dtype=object), numbers) if tops else None,
        groups=None,
    )


def csv_classes(table: Path) -> list[str]:
    """The labels of a CSV, sorted."""
    return sorted({row["label"] for _, row in _rows(table)})


def list_csv(table: Path, *, class_names: list[str]) -> Listing:
    """List a CSV with columns file and label, and optionally split and group.

    Raises:
        UserError: A column or a value is missing, a split is unknown, or a file is listed twice.
    """
    label_of = {name: label for label, name in enumerate(class_names)}
    labels, splits, groups = list[int](), list[str](), list[str]()
    seen: dict[str, None] = {}  # in their order
    for line, row in _rows(table):
        if row["file"] in seen:
            raise UserError(f"data.csv: {table} line {line}: {row['file']} is listed twice; remove one")
        seen[row["file"]] = None
        labels.append(label_of[row["label"]])
        if "split" in row:
            if (split := split_named(row["split"])) is None:
                raise UserError(
                    f"data.csv: {table} line {line}: split {row['split']!r} is not one of {_NAMES_UNDERSTOOD}; "
                    "leave the column out to create the splits"
                )
            splits.append(split)
        if "group" in row:
            groups.append(row["group"])
    names = Names(seen)
    return Listing(
        paths=names,
        names=names,
        labels=np.array(labels, dtype=np.int64),
        splits=np.array(splits, dtype=object) if splits else None,
        groups=groups or None,
    )


def split_named(name: str) -> str | None:
    """The split (train, val or test) that a name such as `Training`, `valid` or `test_set` means, or None."""
    word = re.sub(r"[ _-]?set$", "", name.lower())
    return next((split for split, names in _SPLIT_NAMES.items() if word in names), None)


def _split_folders(folder: Path, splits: Mapping[str, str] | None) -> dict[str, Path]:
    """The folder of each split; empty if `folder` contains the classes themselves."""
    if splits is not None:
        if unknown := [split for split in splits if split not in SPLITS]:
            raise UserError(f"data.splits: {unknown[0]} is not a split; the keys are {', '.join(SPLITS)}")
        tops = {split: folder / splits[split] for split in SPLITS if split in splits}
        if missing := [top for top in tops.values() if not top.is_dir()]:
            raise UserError(f"data.splits: there is no folder {missing[0]}; give each split the name of its folder")
        return tops
    named = [(split, path) for path in _subfolders(folder) if (split := split_named(path.name)) is not None]
    tops = {split: path for name in SPLITS for split, path in named if split == name}
    if len(tops) < len(named):
        split = _twice([split for split, _ in named])
        both = " and ".join(path.name for of, path in named if of == split)
        raise UserError(
            f"data.folder: {folder}: {both} are both names of the split {split}; "
            f"rename one, or give data.splits={{{split}: …}}"
        )
    if tops and (others := [path.name for path in _subfolders(folder) if path not in tops.values()]):
        taken = ", ".join(path.name for path in tops.values())
        raise UserError(
            f"data.folder: {folder}: {listed(map(_readable, others))} next to {taken}, which is the name of a split; "
            f"names of splits are {_NAMES_UNDERSTOOD}: rename or move the others, or, if {taken} is a class, "
            "give data.splits={}"
        )
    return tops


def _readable(name: str, errors: str = "replace") -> str:
    """A file name that can be printed and encoded: Python reads bytes that are not UTF-8 as surrogates."""
    return os.fsencode(name).decode("utf-8", errors)


def _twice(names: list[str]) -> str:
    return next(name for name in names if names.count(name) > 1)


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not is_ignored(path.name))
    except OSError as error:
        raise _unreadable(error) from error


def _unreadable(error: OSError) -> UserError:
    return UserError(f"data.folder: {error.filename} cannot be read ({error.strerror}): repair or remove it")


def _rows(table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV with their line numbers, spaces around values removed, each with a file and a label."""
    empty = True
    try:
        with table.open(encoding="utf-8-sig") as file:
            reader: csv.DictReader[str] = csv.DictReader(file, skipinitialspace=True)
            columns = [(name or "").strip() for name in reader.fieldnames or []]
            reader.fieldnames = columns
            if missing := {"file", "label"} - set(columns):
                raise UserError(
                    f"data.csv: {table} has no column {' nor '.join(sorted(missing))}; its first line names them: "
                    "file,label and optionally split and group"
                )
            used: list[str] = [name for name in ("file", "label", "split", "group") if name in columns]
            for row in reader:
                values = {name: (row[name] or "").strip() for name in used}
                if unset := [name for name, value in values.items() if not value]:
                    raise UserError(f"data.csv: {table} line {reader.line_num}: the {unset[0]} is empty; fill it in")
                if not is_system_file(PurePosixPath(values["file"]).name):
                    empty = False
                    yield reader.line_num, values
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"data.csv: {table} cannot be read ({error}); it must be a UTF-8 text file") from error
    except csv.Error as error:
        # The reader counts the lines of a row at its end, which was not reached.
        raise UserError(
            f"data.csv: {table}: the row that begins in line {reader.line_num + 1} cannot be read ({error}); "
            "close its quotes, or shorten it"
        ) from error
    if empty:
        raise UserError(f"data.csv: {table} lists no files; add some")
