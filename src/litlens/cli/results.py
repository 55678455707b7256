"""The results of a test: metrics, the last lines on the terminal, and the run's page.

Training and evaluation share this code: for the same checkpoint and data, their pages are equal.
"""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import yaml
from lightning.pytorch import LightningModule, Trainer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn

from litlens.callbacks.collect_predictions import CollectPredictions
from litlens.checkpoints.loaded_classifier import LoadedClassifier, load_classifier
from litlens.cli.mistakes import out_of_memory
from litlens.cli.run_folder import OUT_OF_FOLD, REPORT, RESULTS, read_history, run_home, run_title
from litlens.data.assignment import SplitAssignment
from litlens.data.module import ImageDataModule
from litlens.data.preprocessing import Pixels
from litlens.evaluation.predictions import Predictions
from litlens.evaluation.report_page import CrossValidation, RunFacts, render_report, write_page
from litlens.evaluation.scores import accuracy, noise_difference
from litlens.evaluation.search_figures import SearchResult, SearchTrial
from litlens.explain.cam import cam
from litlens.explain.overlay import overlay

_PATHS = (PurePosixPath, PureWindowsPath)
_AT_ONCE = 8  # images in one pass of Grad-CAM, so that VGG16 at 224×224 stays below 1 GB


def test(
    trainer: Trainer,
    classifier: LightningModule,
    data: ImageDataModule,
    collect: CollectPredictions,
    *,
    metadata: dict[str, Any],
) -> tuple[Predictions, dict[str, Any]]:
    """Test a classifier: its predictions, and the metrics of results.json.

    `collect` is among the trainer's callbacks; `metadata` is the key `litlens` of the checkpoint.
    """
    with out_of_memory(trainer, data):
        trainer.test(classifier, datamodule=data, verbose=False)
    predictions = collect.predictions
    assert predictions is not None  # gathered by the test
    interval = accuracy(predictions)
    results = {
        "accuracy_val": metadata["metrics"].get("accuracy/val"),  # None where the run had no validation
        "accuracy_test": interval.value,
        "interval_test": [interval.low, interval.high],
        "n_test": len(predictions),
        "loss_test": float(trainer.callback_metrics["loss/test"]),
        "f1_test": float(trainer.callback_metrics["f1/test"]),
        "noise": noise_difference(int(predictions.correct.sum()), len(predictions)),
    }
    return predictions, {key: value for key, value in results.items() if value is not None}


def seen_before(assignment: SplitAssignment | None, data: ImageDataModule, number: int) -> dict[str, int]:
    """How many of the first `number` images of test the run was trained on, and validated on, for results.json.

    Empty where that is not known: without splits.csv, or where data of files are compared with an array.
    """
    seen = assignment.seen(data.samples("test").hashes[:number]) if assignment is not None else None
    return {"n_trained_on": seen.in_train, "n_validated_on": seen.in_val} if seen is not None else {}


def print_results(results: dict[str, Any], *, console: Console, shared: int | None = None, own: bool = True) -> None:
    """Print accuracy with its interval, the gap to validation, and which difference is not significant.

    Args:
        results: As from `test`.
        console: The terminal.
        shared: The number of duplicates across splits, where it was counted.
        own: Whether these are the results of the run's own test split.
    """
    split = "test " if own else ""
    low, high = results["interval_test"]
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row(
        f"{split}accuracy",
        Text(f"{results['accuracy_test']:.4f}", style="bold"),
        f"95 % interval {low:.4f} to {high:.4f}, {results['n_test']:,} images",
    )
    table.add_row(f"{split}loss", f"{results['loss_test']:.4f}", f"macro F1 {results['f1_test']:.4f}")
    if "accuracy_val" in results and own:
        gap = results["accuracy_val"] - results["accuracy_test"]
        table.add_row("val accuracy", f"{results['accuracy_val']:.4f}", f"val − test = {gap:+.4f}; selected on val")
    if shared is not None:
        table.add_row("duplicates across splits", f"{shared:,}", "pairs of images with equal pixels" if shared else "")
    console.print(table, soft_wrap=False)
    console.print(f"Differences below ±{results['noise']:.4f} are not significant (95 %, independent models)")


def write_run_report(
    folder: Path,
    checkpoint: Path,
    *,
    predictions: Predictions,
    data: ImageDataModule,
    seen: dict[str, int],
    network: nn.Module | None = None,
) -> Path:
    """Write report.html into a folder; `predictions` are of the test split of `data`, which is set up.

    `seen` is from `seen_before`.

    `network` is for a checkpoint that does not describe its own (`load_classifier`).
    """
    # Loaded again instead of taken from the trainer, so that maps are computed on the CPU and in float32.
    loaded = load_classifier(checkpoint, network)
    metadata = loaded.metadata
    page = render_report(
        predictions,
        run=RunFacts(
            title=run_title(checkpoint),
            validation=metadata["metrics"].get("accuracy/val"),
            trained_on=seen.get("n_trained_on"),
            validated_on=seen.get("n_validated_on"),
            history=read_history(run_home(checkpoint)),
            search=_search(run_home(checkpoint)),
            cross_validation=_cross_validation(run_home(checkpoint), data),
            facts=_facts(loaded),
            config=yaml.safe_dump(without_private_paths(metadata["config"]), sort_keys=False, allow_unicode=True),
            environment=_environment(metadata),
        ),
        image=lambda index: data.image("test", index),
        overlays=lambda indices: list(_overlays(loaded, [data.image("test", index) for index in indices])),
    )
    return write_page(folder / REPORT, page)


def _cross_validation(folder: Path, data: ImageDataModule) -> CrossValidation | None:
    """What the folder of a cross-validation says of it; the images of `data`, where they are the run's."""
    if not (folder / OUT_OF_FOLD).is_file():
        return None
    found = json.loads((folder / RESULTS).read_text())["cross_validation"]
    predictions = Predictions.load(folder / OUT_OF_FOLD)
    place_of = {name: (split, k) for split in ("train", "val") for k, name in enumerate(data.samples(split).names)}
    complete = all(name in place_of for name in predictions.names)
    return CrossValidation(
        folds=found["folds"],
        means={name: found[name] for name in ("accuracy", "loss", "f1")},
        best_fold=found["best_fold"],
        predictions=predictions,
        image=(lambda k: data.image(*place_of[predictions.names[k]])) if complete else None,
    )


def _search(folder: Path) -> SearchResult | None:
    """What results.json in the folder of a search says of it."""
    path = folder / RESULTS
    found = json.loads(path.read_text()).get("search") if path.is_file() else None
    return SearchResult(**found | {"trials": [SearchTrial(**trial) for trial in found["trials"]]}) if found else None


def _overlays(loaded: LoadedClassifier, images: Sequence[Pixels]) -> Iterator[Pixels]:
    assert loaded.preprocessing is not None  # evaluate.py refuses a checkpoint without
    for start in range(0, len(images), _AT_ONCE):
        batch = images[start : start + _AT_ONCE]
        maps = cam(loaded.classifier.network, loaded.preprocessing.normalize(np.stack(batch))).maps.numpy()
        yield from (overlay(image, heat) for image, heat in zip(batch, maps, strict=True))


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
        "checkpoint": f"epoch {metadata['epoch']}" + (f", selected by {monitor}" if monitor else ""),
    }
    return {key: value for key, value in facts.items() if value}


def _environment(metadata: dict[str, Any]) -> dict[str, str]:
    git, data = metadata["git"], metadata["data"]
    code = f"{git['commit'][:12]}{', with uncommitted changes' if git['dirty'] else ''}" if git["commit"] else "unknown"
    files = f"{data['files']:,} files, {data['bytes']:,} bytes, " if data["files"] else ""
    return {
        **metadata["versions"],
        "computed on": metadata["computed_on"]["hardware"],
        "code": code,
        "data": f"{files}digest {data['content'][:12]}",
    }


def without_private_paths(value: Any) -> Any:
    """A config without the paths of one person's machine: of an absolute path, only the last part is kept."""
    if isinstance(value, dict):
        return {key: without_private_paths(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_private_paths(inner) for inner in value]
    if isinstance(value, str) and (value.startswith("~") or any(kind(value).is_absolute() for kind in _PATHS)):
        return f"…/{PureWindowsPath(value).name}"
    return value


def _name(spec: dict[str, Any] | None) -> str:
    return spec["class_path"].rpartition(".")[2] if spec else ""


def _with_rate(spec: dict[str, Any] | None) -> str:
    rate = (spec or {}).get("init_args", {}).get("lr", math.nan)
    return _name(spec) + (f", learning rate {rate:g}" if rate == rate else "")
