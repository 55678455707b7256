"""Measure how many worker processes are best on this machine: of a loader alone, and in a training on its CPU.

    python benchmarks/workers.py --data data             # writes docs/workers.json
    python benchmarks/workers.py --data data --quick     # a test: writes nothing

`num_workers: auto` starts none where a CPU trains: neither the loader nor the training gains by them. `--data`
holds `MNIST/raw` and `catdog_2k`. Images per second, the median of some turns, the numbers of workers in turn; the
start of the workers does not count.
"""

import argparse
import datetime
import itertools
import json
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from on_gpu.timing import Stopwatch

import litlens
from litlens.checkpoints.provenance import hardware, versions


def main() -> None:
    """Measure, print, and write the results to `--output`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of data sets")
    parser.add_argument("--output", type=Path, default=Path("docs/workers.json"))
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="two batches of each; writes nothing")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    cats, warped = options.data / "catdog_2k", ["rotation", "zoom", "horizontal_flip"]
    cases: dict[str, tuple[Callable[..., Any], Callable[[], Any]]] = {
        "mnist, 28×28, rotation, shift, zoom; MnistCNN": (
            lambda **given: litlens.MNISTDataModule(options.data, augment=["rotation", "shift", "zoom"], **given),
            lambda: litlens.MnistCNN(10),
        ),
        "photos, 64×64, rotation, zoom, flip; CatDogCNN": (
            lambda **given: litlens.FolderDataModule(cats, image_size=64, augment=warped, **given),
            lambda: litlens.CatDogCNN(2, image_size=(64, 64)),
        ),
        "photos, 224×224, rotation, zoom, flip; MLP": (
            lambda **given: litlens.FolderDataModule(cats, image_size=224, augment=warped, **given),
            lambda: litlens.MLP(2, in_channels=3, image_size=(224, 224), widths=[16]),
        ),
        "photos, 224×224, crop, flip; MLP": (
            lambda **given: litlens.FolderDataModule(
                cats, image_size=224, augment=["crop", "horizontal_flip"], **given
            ),
            lambda: litlens.MLP(2, in_channels=3, image_size=(224, 224), widths=[16]),
        ),
    }
    batches = 2 if options.quick else 30
    results = {
        name: measure(*case, batches=batches, turns=1 if options.quick else options.turns)
        for name, case in cases.items()
    }
    figures = {
        "script": "benchmarks/workers.py",
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "hardware": hardware(torch.device("cpu")),
        "versions": versions(),
        "images_per_s": results,
    }
    print(json.dumps(figures, indent=2, ensure_ascii=False))
    if not options.quick:
        options.output.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def measure(
    make_data: Callable[..., Any], make_network: Callable[[], Any], *, batches: int, turns: int
) -> dict[str, dict[str, float]]:
    """Images per second of the loader and of the training, by the number of workers."""
    counts = sorted({0, 1, os.cpu_count() or 1})
    taken: dict[str, dict[int, list[float]]] = {
        side: {count: [] for count in counts} for side in ("loader", "training")
    }
    for _, count in itertools.product(range(turns), counts):
        data = make_data(batch_size=32, num_workers=count, seed=0)
        data.prepare_data()
        data.setup("fit")
        loader = iter(data.train_dataloader())
        next(loader)
        start = time.perf_counter()
        images = sum(len(labels) for _, labels in itertools.islice(loader, batches))
        taken["loader"][count].append(images / (time.perf_counter() - start))
        del loader
        taken["training"][count].append(32 * batches / _training_seconds(make_network(), data, batches=batches))
    return {
        side: {f"{count} workers": round(statistics.median(rates)) for count, rates in by_count.items()}
        for side, by_count in taken.items()
    }


def _training_seconds(network: Any, data: Any, *, batches: int) -> float:
    """Seconds of the second of two epochs, whose workers have been started in the first."""
    with tempfile.TemporaryDirectory() as folder:
        watch = Stopwatch(f"{folder}/epochs.json")
        quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=2,
            limit_train_batches=batches,
            limit_val_batches=0,
            enable_model_summary=False,
            use_distributed_sampler=False,
            callbacks=[watch],
            default_root_dir=folder,
            **quiet,
        )
        trainer.fit(litlens.ImageClassifier(network, data.class_names), datamodule=data)
    return watch.epochs[-1]["training"]


if __name__ == "__main__":
    main()
