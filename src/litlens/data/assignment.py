"""Which split each image of a run belongs to, in splits.csv: a resumed run keeps it, and an evaluation counts by it."""

import csv
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from litlens.data.cache import digest
from litlens.data.split import ArrayImages, Split
from litlens.errors import UserError, listed
from litlens.files import write_atomically

_COLUMNS = ["name", "label", "split", "content_hash"]


class Sample(NamedTuple):
    """An image of a run; `label` is the name of its class, and `content_hash` as in `litlens.data.split`.

    The hash is empty of a file that was not decoded yet; what it contains is then not compared.
    """

    name: str
    label: str
    split: str
    content_hash: str


class Seen(NamedTuple):
    """How many images, by content, a run was trained on and validated on."""

    in_train: int
    in_val: int


@dataclass(frozen=True)
class SplitAssignment:
    """The images of a run with their splits, in the order of each split.

    Args:
        samples: The images; each name once.
        otherwise: What to do where one is missing or has changed and cannot be restored, for the end of an error.
    """

    samples: Sequence[Sample]
    otherwise: str = "leave them out"

    @classmethod
    def of(cls, splits: Mapping[str, Split], class_names: Sequence[str]) -> "SplitAssignment":
        """The assignment that some splits show."""
        samples = [
            Sample(name, class_names[label], split, content_hash)
            for split, members in splits.items()
            for name, label, content_hash in zip(members.names, members.labels.tolist(), members.hashes, strict=True)
        ]
        return cls(samples)

    @property
    def checksum(self) -> str:
        """A digest of all samples, in their order."""
        return digest(self.samples)

    @classmethod
    def read(cls, path: Path, *, otherwise: str) -> "SplitAssignment":
        """Read what `write` wrote. Raises UserError, in one line, where the file is missing or is something else."""
        try:
            text = path.read_bytes().decode("utf-8", errors="surrogateescape")
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}): restore it, or {otherwise}") from error
        rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        samples: dict[str, Sample] = {}
        try:
            damaged = next(rows, None) != _COLUMNS
            for row in rows:
                damaged |= len(row) != len(_COLUMNS) or row[2] not in ("train", "val", "test") or row[0] in samples
                if damaged:
                    break
                samples[row[0]] = Sample(*row)
        except csv.Error:
            damaged = True
        if damaged or not samples:
            raise UserError(f"{path} is damaged (line {rows.line_num}): restore it, or {otherwise}")
        return cls(list(samples.values()), otherwise)

    def check(self, checksum: str | None, path: Path) -> None:
        """Raise UserError where this is not the table that the run wrote; older checkpoints do not say (None)."""
        if checksum not in (None, self.checksum):
            raise UserError(f"{path} is not as the run wrote it (wrong checksum): restore it, or {self.otherwise}")

    def write(self, path: Path) -> None:
        """Write a CSV of name, label, split and content hash, in one step."""
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([_COLUMNS, *self.samples])
        write_atomically(path, text.getvalue())

    def split_of(self) -> dict[str, str]:
        """The split of each name."""
        return {sample.name: sample.split for sample in self.samples}

    def without(self, names: Collection[str]) -> "SplitAssignment":
        """The assignment of the other images."""
        return SplitAssignment([sample for sample in self.samples if sample.name not in names], self.otherwise)

    def differences(self, splits: Mapping[str, Split], class_names: Sequence[str]) -> dict[str, str]:
        """The names of images that are not in `splits` as they were in the run, each with the reason."""
        found = {sample.name: sample for sample in SplitAssignment.of(splits, class_names).samples}
        reasons = {}
        for name, label, _, content_hash in self.samples:
            if name not in found:
                reasons[name] = "missing or damaged"
            elif content_hash and found[name].content_hash not in ("", content_hash):
                reasons[name] = "its content has changed"
            elif found[name].label != label:
                reasons[name] = f"labeled {found[name].label} instead of {label}"
        return reasons

    def refuse(self, reasons: Mapping[str, str]) -> None:
        """Raise UserError where there are differences, with the names of the first."""
        if reasons:
            named = listed(f"{name} ({reason})" for name, reason in reasons.items())
            number = f"{len(reasons):,} of the {len(self.samples):,} images of the run"
            raise UserError(f"data: {number} are missing or have changed: {named}: restore them, or {self.otherwise}")

    def applied(self, splits: Mapping[str, Split]) -> dict[str, Split]:
        """The same images in the splits of the run, in its order. Images that the run did not have are left out."""
        place_of = {name: (split, place) for split, of in splits.items() for place, name in enumerate(of.names)}
        chosen: dict[str, list[tuple[Split, int]]] = {split: [] for split in splits}
        for sample in self.samples:
            split, place = place_of[sample.name]
            chosen[sample.split].append((splits[split], place))
        return {split: _selected(places) if places else splits[split].at(_NONE) for split, places in chosen.items()}

    def seen(self, hashes: Iterable[str]) -> Seen | None:
        """Count images, given by hash, that the run was trained on or validated on.

        None where the hashes are not known, or of another kind, files instead of arrays.
        """
        splits: dict[str, set[str]] = {"train": set(), "val": set(), "test": set()}
        for sample in self.samples:
            splits[sample.split].add(sample.content_hash)
        kinds = {known.partition(":")[0] for members in splits.values() for known in members}
        found = list(hashes)
        if "" in kinds or {one.partition(":")[0] for one in found} - kinds:
            return None
        return Seen(*(sum(one in splits[name] for one in found) for name in ("train", "val")))


_NONE = np.empty(0, dtype=np.int64)


def _selected(places: Sequence[tuple[Split, int]]) -> Split:
    """Samples of one or several splits as one split."""
    rows = np.array([split.rows[place] for split, place in places], dtype=np.int64)
    images = places[0][0].images
    if any(split.images is not images for split, _ in places):  # arrays of their own
        pixels = [split.images.batch(split.rows[[place]])[0] for split, place in places]
        images, rows = ArrayImages(np.stack(pixels)), np.arange(len(places))
    groups = [split.groups[place] for split, place in places if split.groups is not None]
    return Split(
        images,
        rows=rows,
        labels=np.array([split.labels[place] for split, place in places], dtype=np.int64),
        names=[split.names[place] for split, place in places],
        groups=groups or None,
    )
