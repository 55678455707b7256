"""What a run is worth: from test predictions to results.json and the last lines on the terminal."""

import json
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from litlens.checkpoints.provenance import versions
from litlens.evaluation.predictions import Predictions
from litlens.evaluation.scores import noise_difference, wilson_interval
from litlens.files import write_atomically

PREDICTIONS_FILE = "predictions-test.csv"
RESULTS_FILE = "results.json"


def test_results(predictions: Predictions, metrics: dict[str, float]) -> dict[str, Any]:
    """The figures of the test split: from the predictions, and from what the trainer's test logged."""
    accuracy = wilson_interval(int(predictions.correct.sum()), len(predictions))
    return {
        "accuracy_test": accuracy.value,
        "interval_test": [accuracy.low, accuracy.high],
        "n_test": len(predictions),
        "loss_test": metrics["loss/test"],
        "f1_test": metrics["f1/test"],
        "noise": noise_difference(int(predictions.correct.sum()), len(predictions)),
    }


def validation_results(about: dict[str, Any]) -> dict[str, float]:
    """What the checkpoint was chosen by; nothing where the run had no validation. `about` is its key `litlens`."""
    return {"accuracy_val": value} if (value := about["metrics"].get("accuracy/val")) is not None else {}


def run_results(
    test: dict[str, Any], *, about: dict[str, Any], parameters: int, epochs: int, seconds: float
) -> dict[str, Any]:
    """Everything that results.json holds; `about` is the best checkpoint's key `litlens`."""
    return {
        "parameters": parameters,
        "epochs": epochs,
        "seconds": round(seconds, 1),
        **validation_results(about),
        **test,
        "seed": about["seed"],
        "versions": versions(),
        "hardware": about["computed_on"]["hardware"],
        "date": date.today().isoformat(),
    }


def write_results(folder: Path, predictions: Predictions, results: dict[str, Any]) -> None:
    """Write predictions-test.csv and results.json into a run folder, each in one step."""
    predictions.save(folder / PREDICTIONS_FILE)
    write_atomically(folder / RESULTS_FILE, json.dumps(results, indent=2) + "\n")


def print_results(results: dict[str, Any], *, console: Console, shared: int | None = None, own: bool = True) -> None:
    """Say what the run is worth: accuracy with its interval, the gap to validation, and what would be noise.

    Args:
        results: As from `run_results`.
        console: Where it is printed.
        shared: The number of images that are in two splits, where it was counted.
        own: Whether the test split is the run's own, so that validation compares with it.
    """
    low, high = results["interval_test"]
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row(
        "test accuracy",
        Text(f"{results['accuracy_test']:.4f}", style="bold"),
        f"95 % interval {low:.4f} to {high:.4f}, {results['n_test']:,} images",
    )
    table.add_row("test loss", f"{results['loss_test']:.4f}", f"macro F1 {results['f1_test']:.4f}")
    if "accuracy_val" in results and own:
        gap = results["accuracy_val"] - results["accuracy_test"]
        explained = f"val − test = {gap:+.4f}; selected on val"
        table.add_row("val accuracy", f"{results['accuracy_val']:.4f}", explained)
    if shared is not None:
        table.add_row("duplicates across splits", f"{shared:,}", "images whose pixels are equal" if shared else "")
    noise = f"Differences below ±{results['noise']:.4f} are not significant (95 %, independent models)"
    console.print(table, soft_wrap=False)
    console.print(noise)
