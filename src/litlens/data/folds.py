"""The folds of a cross-validation: training and validation images are divided again, the test split stays."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from litlens.data.assignment import SplitAssignment
from litlens.data.split import Split
from litlens.errors import UserError


def fold_assignment(
    splits: Mapping[str, Split], class_names: Sequence[str], *, number: int, folds: int, seed: int
) -> SplitAssignment:
    """Fold `number` (from 1) of training and validation images for validation, the other folds for training.

    The images are taken in the order of their names, so the folds do not depend on how the two splits divide them. Each
    class is in every fold in the same proportion, and where there are groups, none is divided: scikit-learn's
    StratifiedKFold or StratifiedGroupKFold, shuffled. Raises UserError where a class has too few images or groups.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold  # takes a second to import

    pooled = [splits["train"], splits["val"]]
    samples = sorted(SplitAssignment.of({"train": pooled[0], "val": pooled[1]}, class_names).samples)
    groups: list[str] | None = None
    if any(split.groups is not None for split in pooled):  # where a split has none, each image is its own
        names = [name for split in pooled for name in split.names]
        group_of = dict(zip(names, [group for split in pooled for group in split.groups or split.names], strict=True))
        groups = [group_of[sample.name] for sample in samples]
    _check(class_names, [sample.label for sample in samples], groups, folds=folds)
    divided: Any = StratifiedKFold if groups is None else StratifiedGroupKFold
    parts = divided(folds, shuffle=True, random_state=seed).split(
        np.zeros(len(samples)), [class_names.index(sample.label) for sample in samples], groups
    )
    held_out = set(list(parts)[number - 1][1].tolist())
    new = [sample._replace(split="val" if place in held_out else "train") for place, sample in enumerate(samples)]
    return SplitAssignment([*new, *SplitAssignment.of({"test": splits["test"]}, class_names).samples])


def _check(class_names: Sequence[str], labels: Sequence[str], groups: Sequence[str] | None, *, folds: int) -> None:
    """Raise UserError where the smallest class has not an image, or a group, for every fold."""
    kind, members = ("images", range(len(labels))) if groups is None else ("groups", groups)
    found = set(zip(labels, members, strict=True))
    counts = dict.fromkeys(class_names, 0) | Counter(label for label, _ in found)
    smallest = min(counts, key=lambda name: counts[name])
    if counts[smallest] < folds:
        remedy = f"use at most {counts[smallest]} folds" if counts[smallest] > 1 else "add some, or remove the class"
        number = f"{counts[smallest]} {kind if counts[smallest] != 1 else kind[:-1]}"
        raise UserError(f"folds: {folds}: class {smallest} has {number} in training and validation: {remedy}")
