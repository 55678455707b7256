"""The highest accuracy a network can reach on the fonts, where classes share images: docs/fonts_ceiling.json.

    python benchmarks/fonts_ceiling.py --data ../data

Fonts of small capitals draw `M` and `m` alike, and the archive scales every glyph to the same size, so that the two
are identical. Of equal images, only those of one class can be classified correctly (`lost`, `ceiling`). A letter that
was drawn twice instead of copied differs from its twin in some gray at the edges; `lost_alike` and `ceiling_alike` also
count two glyphs of one font as equal if they differ by at most 1 % of the gray range on average.
"""

import argparse
import json
import sys
from collections import Counter, defaultdict
from datetime import date
from pathlib import Path

import numpy as np
from scipy.sparse.csgraph import connected_components

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from litlens import FontsDataModule  # noqa: E402

JSON = ROOT / "docs" / "fonts_ceiling.json"
ALIKE = 0.01  # of the gray range, in the mean over the pixels


def main() -> None:
    """Count, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "data", help="the folder of data sets")
    data = FontsDataModule(root=parser.parse_args().data, seed=42)
    data.prepare_data()
    data.setup()
    found = {split: ceiling(data, split) for split in ("train", "val", "test")}
    text = json.dumps({"seed": 42, "date": date.today().isoformat(), **found}, indent=2) + "\n"
    print(text)
    JSON.write_text(text)


def ceiling(data: FontsDataModule, split: str) -> dict[str, float]:
    """Count the images that no function of the pixels classifies correctly, and give the highest accuracy."""
    members = data.samples(split)
    labels_of: dict[bytes, Counter[int]] = defaultdict(Counter)
    for rows, labels in zip(np.array_split(members.rows, 64), np.array_split(members.labels, 64), strict=True):
        for image, label in zip(members.images.batch(rows), labels, strict=True):
            labels_of[image.tobytes()][int(label)] += 1
    lost = sum(sum(counts.values()) - max(counts.values()) for counts in labels_of.values())
    lost_alike = lost_alike_in(data, split)
    size = len(members)
    return {
        "images": size,
        "lost": lost,
        "ceiling": round(1 - lost / size, 4),
        "lost_alike": lost_alike,
        "ceiling_alike": round(1 - lost_alike / size, 4),
    }


def lost_alike_in(data: FontsDataModule, split: str) -> int:
    """Count all but one of each group of a font's glyphs that are connected by differences of at most ALIKE."""
    members, classes = data.samples(split), len(data.class_names)
    assert (members.labels.reshape(-1, classes) == np.arange(classes)).all()  # font by font
    lost = 0
    for rows in members.rows.reshape(-1, classes):
        glyphs = members.images.batch(rows).reshape(classes, -1) / 255
        differences = np.abs(glyphs[:, None] - glyphs).mean(axis=2)
        groups, _ = connected_components(differences <= ALIKE)
        lost += classes - groups
    return lost


if __name__ == "__main__":
    main()
