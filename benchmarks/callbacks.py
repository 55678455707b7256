"""Measure the cost of the callbacks that draw: epochs of mnist_cnn with all of them on and all off, alternately.

    python benchmarks/callbacks.py --root data             # writes docs/callbacks.json
    python benchmarks/callbacks.py --root data --quick     # a test: writes nothing

`ratio` is the time of fit with them over that without, the median over the rounds. On a busy machine it varies by more
than the callbacks cost; `seconds_in_callbacks_per_epoch` is the time spent inside them.
"""

import argparse
import datetime
import functools
import importlib.metadata
import json
import os
import platform
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Trainer
from torch import Tensor

from litlens.checkpoints.provenance import hardware
from litlens.cli.parser import CALLBACKS, TrainingCommand
from litlens.cli.train import build

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "mnist_cnn.yaml"
BASICS = ("RandomState", "FiniteLoss", "LearningRate")  # they show no image, and stay on in either case
THREADS = 2


def main() -> None:
    """Measure, print, and write the results to `--output`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="the folder of data sets")
    parser.add_argument("--epochs", type=int, default=10, help="as shipped; fewer do not mean fewer drawings")
    parser.add_argument("--limit", type=int, help="training and validation batches in an epoch, by default all")
    parser.add_argument("--rounds", type=int, default=3, help="of one run with and one without")
    parser.add_argument("--output", type=Path, default=Path("docs/callbacks.json"))
    parser.add_argument("--quick", action="store_true", help="a short test; writes nothing")
    options = parser.parse_args()
    if options.quick:
        options.epochs, options.limit, options.rounds = 2, 20, 1
    output = options.output.resolve()
    torch.set_num_threads(THREADS)
    figures: dict[str, Any] = {
        "script": "benchmarks/callbacks.py",
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "seed": 42,
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in ("torch", "lightning", "matplotlib", "tensorboard")},
        "hardware": hardware(torch.device("cpu")),
        "setting": f"mnist_cnn, {options.epochs} epochs of {options.limit or 'all'} batches, {options.rounds} rounds",
        **measure(options.root.resolve(), epochs=options.epochs, limit=options.limit, rounds=options.rounds),
    }
    text = json.dumps(figures, indent=2, ensure_ascii=False) + "\n"
    print(text, end="")
    if not options.quick:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")


def measure(root: Path, *, epochs: int, limit: int | None, rounds: int) -> dict[str, Any]:
    """Seconds of an epoch with and without, their ratio, and whether the weights are the same to the last bit."""
    seconds: dict[bool, list[float]] = {True: [], False: []}
    spent: Counter[str] = Counter()
    weights: list[dict[str, Tensor]] = []
    for number in range(1 if limit == 1 else 0, rounds + 1):
        # Number 0 is to warm up (caches, threads, fonts); then the order alternates.
        for on in (False, True) if number % 2 else (True, False):
            inside, elapsed, state = fit(root, on=on, epochs=epochs if number else 1, limit=limit if number else 10)
            if number:
                seconds[on].append(elapsed / epochs)
                spent.update(inside)
                weights.append(state)
    first = weights[0]
    identical = all(torch.equal(first[name], state[name]) for state in weights[1:] for name in first)
    per_epoch = {name: round(value / rounds / epochs, 4) for name, value in spent.most_common()}
    with_all, without = (statistics.median(seconds[on]) for on in (True, False))
    return {
        "ratio": round(statistics.median(a / b for a, b in zip(seconds[True], seconds[False], strict=True)), 4),
        "ratio_by_time_inside": round(1 + sum(per_epoch.values()) / without, 4),
        "weights_identical": identical,
        "seconds_per_epoch": {"with": round(with_all, 3), "without": round(without, 3)},
        "seconds_in_callbacks_per_epoch": per_epoch,
    }


def fit(root: Path, *, on: bool, epochs: int, limit: int | None) -> tuple[Counter[str], float, dict[str, Tensor]]:
    """Seconds in each callback, seconds of fit, and the weights at its end."""
    chosen = [path for path in CALLBACKS if on or path["class_path"].rpartition(".")[2] in BASICS]
    own = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["trainer"]["callbacks+"]
    arguments = ["--config", str(CONFIG), f"--data.root={root}", f"--trainer.max_epochs={epochs}"]
    arguments += [f"--trainer.callbacks={json.dumps([*chosen, own])}", "--trainer.enable_progress_bar=false"]
    arguments += ["--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]
    if limit is not None:
        arguments += [f"--trainer.limit_train_batches={limit}", f"--trainer.limit_val_batches={limit}"]
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            parts = build(TrainingCommand(arguments), Path("run"))
            inside = _timed(parts.trainer)
            start = time.perf_counter()
            parts.trainer.fit(parts.classifier, datamodule=parts.data)
            elapsed = time.perf_counter() - start
        finally:
            os.chdir(before)
    return inside, elapsed, {name: value.clone() for name, value in parts.classifier.state_dict().items()}


def _timed(trainer: Trainer) -> Counter[str]:
    """Measure every hook of the callbacks that show something."""
    inside: Counter[str] = Counter()
    live = {path["class_path"].rpartition(".")[2] for path in CALLBACKS} - set(BASICS)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        name = type(callback).__name__
        for hook in [hook for hook in dir(callback) if hook.startswith("on_")] if name in live else []:
            setattr(callback, hook, _measured(getattr(callback, hook), inside, name))
    return inside


def _measured(hook: Any, inside: Counter[str], name: str) -> Any:
    @functools.wraps(hook)
    def measured(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return hook(*args, **kwargs)
        finally:
            inside[name] += time.perf_counter() - start  # type: ignore[assignment]

    return measured


if __name__ == "__main__":
    main()
