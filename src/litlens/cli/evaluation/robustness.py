"""What `evaluate.py --robustness` adds: every run's accuracy on distorted test images, in one table and figure."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

from litlens.data.module import ImageDataModule
from litlens.evaluation.distortions import (
    DISTORTIONS,
    DistortedAccuracy,
    chosen_images,
    number_of_points,
    robustness,
    robustness_figure,
)
from litlens.evaluation.style import pixels

ROBUSTNESS_FILE = "robustness.json"
ROBUSTNESS_IMAGE = "robustness.png"
_SEED = 0


def show_robustness(scored: Mapping[str, tuple[nn.Module, ImageDataModule]], *, folder: Path, console: Console) -> None:
    """Try networks on distorted images of their test splits; print a table, write robustness.json and .png.

    `scored` maps a run's name to its network and its data module, set up. The same images and distortions for
    all, so that the files are the same to the byte each time.
    """
    largest = max((data.image_size for _, data in scored.values()), key=math.prod)
    results: dict[str, list[DistortedAccuracy]] = {}
    figures: dict[str, Any] = {}
    for name, (network, data) in scored.items():
        split = data.samples("test")
        chosen = chosen_images(len(split), largest, seed=_SEED)
        points = robustness(
            network, data.preprocessing, split.images.batch(split.rows[chosen]), split.labels[chosen], seed=_SEED
        )
        results[name] = list(
            track(
                points,
                total=number_of_points(),
                description=f"{name}, {len(chosen):,} images",
                console=console,
                transient=True,
                disable=not console.is_terminal,
            )
        )
        figures[name] = {"images": len(chosen), "seed": _SEED, "points": [asdict(point) for point in results[name]]}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ROBUSTNESS_FILE).write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    Image.fromarray(pixels(robustness_figure(results))).save(folder / ROBUSTNESS_IMAGE)
    counts = " or ".join(f"{count:,}" for count in sorted({entry["images"] for entry in figures.values()}))
    console.print(f"robustness     accuracy in % on {counts} test images, distorted by …")
    console.print(_table(results), soft_wrap=False)
    console.print(f"robustness     {folder / ROBUSTNESS_IMAGE}, {ROBUSTNESS_FILE}")


def _table(results: Mapping[str, list[DistortedAccuracy]]) -> Table:
    columns = max(len(distortion.strengths) for distortion in DISTORTIONS.values())
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(max_width=30, no_wrap=True, overflow="ellipsis")
    for _ in range(columns):
        table.add_column(justify="right", no_wrap=True)
    for name, distortion in DISTORTIONS.items():
        table.add_row(
            f"{name}, {distortion.unit}", *(f"{strength:g}" for strength in distortion.strengths), style="dim"
        )
        for run, points in results.items():
            shares = (100 * point.accuracy.value for point in points if point.distortion == name)
            table.add_row(f"  {run}", *(f"{share:.1f}" for share in shares))
    return table
