"""Writes a run's page: gathers what `evaluation.report_page` takes from the checkpoint, the data and metrics.csv.

Training and evaluation both come here with the same checkpoint, predictions and metrics, so their pages are equal.
"""

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import yaml
from torch import nn

from litlens.checkpoints.loaded_classifier import LoadedClassifier, load_classifier
from litlens.data.module import ImageDataModule
from litlens.data.preprocessing import Pixels
from litlens.evaluation.predictions import Predictions
from litlens.evaluation.report_page import RunFacts, render_report, write_page
from litlens.explain.cam import cam
from litlens.explain.overlay import overlay

REPORT_FILE = "report.html"

_CURVES = ("loss/train", "loss/val", "accuracy/train", "accuracy/val")
_AT_ONCE = 8  # images in one pass of Grad-CAM, so that VGG16 at 224×224 stays below 1 GB


def write_report(
    folder: Path,
    checkpoint: Path,
    *,
    predictions: Predictions,
    data: ImageDataModule,
    network: nn.Module | None = None,
) -> Path:
    """Write report.html into a folder, in one step; `predictions` are the test split's, `data` is set up.

    `network` is for a checkpoint that does not describe its own (`load_classifier`).
    """
    # Read again rather than taken from the trainer: maps are then computed on the CPU, whatever device has trained.
    loaded = load_classifier(checkpoint, network)
    page = render_report(
        predictions,
        run=_run_facts(loaded, checkpoint),
        image=lambda index: data.image("test", index),
        overlays=lambda indices: list(_overlays(loaded, [data.image("test", index) for index in indices])),
    )
    return write_page(folder / REPORT_FILE, page)


def run_title(checkpoint: Path) -> str:
    """`NAME/VERSION` of the run that a checkpoint belongs to, or the name of a file that stands elsewhere."""
    home = run_home(checkpoint).resolve()
    if checkpoint.resolve().parent == home:
        return checkpoint.name
    return "/".join(home.parts[-2:]) + ("" if checkpoint.stem == "best" else f" ({checkpoint.stem})")


def run_home(checkpoint: Path) -> Path:
    """The run folder that a checkpoint belongs to, or the folder of a file that stands elsewhere."""
    folder = checkpoint.parent
    return folder.parent if folder.name == "checkpoints" else folder


def read_history(path: Path) -> list[dict[str, float]]:
    """Loss and accuracy of training and validation per epoch, from a run's metrics.csv; empty where there is none."""
    epochs: dict[int, dict[str, float]] = {}
    if path.is_file():
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                if values := {name: float(row[name]) for name in _CURVES if row.get(name)}:
                    epochs.setdefault(int(row["epoch"]), {"epoch": int(row["epoch"])}).update(values)
    return [epochs[epoch] for epoch in sorted(epochs)]


def _overlays(loaded: LoadedClassifier, images: Sequence[Pixels]) -> Iterator[Pixels]:
    assert loaded.preprocessing is not None  # evaluation has refused a checkpoint without
    for start in range(0, len(images), _AT_ONCE):
        batch = images[start : start + _AT_ONCE]
        maps = cam(loaded.classifier.network, loaded.preprocessing.normalize(np.stack(batch))).maps.numpy()
        yield from (overlay(image, heat) for image, heat in zip(batch, maps, strict=True))


def _run_facts(loaded: LoadedClassifier, checkpoint: Path) -> RunFacts:
    metadata = loaded.metadata
    return RunFacts(
        title=run_title(checkpoint),
        validation=metadata["metrics"].get("accuracy/val"),
        history=read_history(run_home(checkpoint) / "metrics.csv"),
        facts=_facts(loaded),
        config=yaml.safe_dump(without_places(metadata["config"]), sort_keys=False, allow_unicode=True),
        environment=_environment(metadata),
    )


def _facts(loaded: LoadedClassifier) -> dict[str, str]:
    metadata, network = loaded.metadata, loaded.classifier.network
    model, data = metadata["config"]["model"]["init_args"], metadata["config"]["data"]
    preprocessing = metadata["preprocessing"]
    height, width = preprocessing["resize"]["size"]
    where, monitor = metadata["computed_on"], metadata["config"]["model_checkpoint"]["init_args"]["monitor"]
    kind = _name(model.get("network")) or type(network).__name__  # a classifier may construct its own network
    facts = {
        "network": f"{kind}, {sum(p.numel() for p in network.parameters()):,} parameters",
        "data": f"{_name(data)}, {height}×{width}, {len(preprocessing['normalize']['mean'])} channel(s)",
        "optimizer": _with_rate(model.get("optimizer")),
        "schedule": _name(model.get("lr_scheduler")),
        "batches": f"{where['batch_size']} on {where['devices']} device(s)",
        "precision": where["precision"],
        "seed": str(metadata["seed"]),
        "checkpoint": f"epoch {metadata['epoch']}" + (f", chosen by {monitor}" if monitor else ""),
    }
    return {key: value for key, value in facts.items() if value}


def _environment(metadata: dict[str, Any]) -> dict[str, str]:
    git, data = metadata["git"], metadata["data"]
    code = f"{git['commit'][:12]}{', with changes' if git['dirty'] else ''}" if git["commit"] else "not known"
    files = f"{data['files']:,} files, {data['bytes']:,} bytes, " if data["files"] else ""
    return {
        **metadata["versions"],
        "computed on": metadata["computed_on"]["hardware"],
        "code": code,
        "data": f"{files}digest {data['content'][:12]}",
    }


def without_places(value: Any) -> Any:
    """A config without the places of one person's machine: of an absolute path only the last part stays."""
    if isinstance(value, dict):
        return {key: without_places(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_places(inner) for inner in value]
    if isinstance(value, str) and (value.startswith("~") or _absolute(value)):
        return f"…/{PureWindowsPath(value).name}"
    return value


def _absolute(value: str) -> bool:
    return PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute()


def _name(spec: dict[str, Any] | None) -> str:
    return spec["class_path"].rpartition(".")[2] if spec else ""


def _with_rate(spec: dict[str, Any] | None) -> str:
    rate = (spec or {}).get("init_args", {}).get("lr", math.nan)
    return _name(spec) + (f", learning rate {rate:g}" if rate == rate else "")
