"""Measure the evaluation of 100,000 images of 1,000 classes: page, predictions, figures of TensorBoard, memory.

    python benchmarks/many_classes.py             # writes docs/many_classes.json
    python benchmarks/many_classes.py --quick     # a test: 120 classes, writes nothing
    python benchmarks/many_classes.py --page page.html

The logits are random, with classes in groups of ten that are confused with each other more often; the images are noise,
which is the most that a JPEG can cost. No network runs.
"""

import argparse
import datetime
import importlib.metadata
import json
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from litlens.checkpoints.provenance import hardware
from litlens.evaluation.figures import confusion_matrix_figure, per_class_figure, precision_recall_figure
from litlens.evaluation.predictions import Predictions
from litlens.evaluation.report_page import write_report
from litlens.evaluation.scores import class_table, precision_recall_curves, threshold_counts
from litlens.evaluation.style import pixels

SEED, SIZE = 0, 224

T = TypeVar("T")


def main() -> None:
    """Measure, print, and write the results to `--output`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=1_000)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--page", type=Path, help="where the page is kept, to look at")
    parser.add_argument("--output", type=Path, default=Path("docs/many_classes.json"))
    parser.add_argument("--quick", action="store_true", help="a short test; writes nothing")
    options = parser.parse_args()
    if options.quick:
        options.classes, options.images = 120, 600
    found: dict[str, Any] = {
        "script": "benchmarks/many_classes.py",
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "seed": SEED,
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in ("numpy", "scipy", "matplotlib", "pillow")},
        "hardware": hardware(torch.device("cpu")),
        "setting": f"{options.classes:,} classes, {options.images:,} images",
        **measure(options.classes, options.images, page=options.page),
    }
    text = json.dumps(found, indent=2, ensure_ascii=False) + "\n"
    print(text, end="")
    if not options.quick:
        options.output.write_text(text, encoding="utf-8")


def measure(classes: int, images: int, *, page: Path | None) -> dict[str, Any]:
    """Seconds of each part, bytes of the files, and the peak of the process's memory, with that of the logits alone."""
    predictions, before = made_up(classes, images), _peak()
    seconds: dict[str, dict[str, float]] = {}

    def timed(what: str, run: Callable[[Predictions], T]) -> T:
        # Nothing that another part has computed is kept.
        given = Predictions(predictions.logits, predictions.labels, predictions.names, predictions.class_names)
        start = time.perf_counter(), time.process_time()
        result = run(given)
        seconds[what] = {
            "elapsed": round(time.perf_counter() - start[0], 2),
            "of processors": round(time.process_time() - start[1], 2),
        }
        return result

    with tempfile.TemporaryDirectory() as folder:
        path, table = page or Path(folder) / "report.html", Path(folder) / "predictions-test.csv"
        timed("page", lambda given: write_report(given, path, image=_noise, overlays=lambda all: [*map(_noise, all)]))
        timed("predictions saved", lambda given: given.save(table))
        timed("predictions loaded", lambda _: Predictions.load(table))
        timed("figures of one validation in TensorBoard", _draw)
        files = {file.name: file.stat().st_size for file in (path, *sorted(Path(folder).glob("predictions*")))}
    return {
        "accuracy": float(predictions.correct.mean()),
        "seconds": seconds,
        "bytes": files,
        "peak_memory_bytes": {"of the logits alone": before, "with everything": _peak()},
    }


def made_up(classes: int, images: int) -> Predictions:
    """Predictions of a network that is right about three times in four."""
    rng = np.random.default_rng(SEED)
    groups = rng.standard_normal((-(-classes // 10), 32), dtype=np.float32)
    centers = groups.repeat(10, axis=0)[:classes] + 0.5 * rng.standard_normal((classes, 32), dtype=np.float32)
    labels = rng.integers(classes, size=images)
    features = centers[labels] + 1.1 * rng.standard_normal((images, 32), dtype=np.float32)
    logits = 1.5 * (features @ centers.T - (centers**2).sum(axis=1) / 2)
    names = [f"n{label:04d}/{number:06d}.JPEG" for number, label in enumerate(labels)]
    return Predictions(logits.astype(np.float32, copy=False), labels, names, [f"class {k:04d}" for k in range(classes)])


def _draw(predictions: Predictions) -> None:
    matrix, names = predictions.confusion_matrix, predictions.class_names
    pixels(confusion_matrix_figure(matrix, names, small=True))
    pixels(precision_recall_figure(precision_recall_curves(predictions)))
    pixels(per_class_figure(class_table(predictions)))
    threshold_counts(predictions, range(predictions.num_classes))


def _noise(index: int) -> NDArray[np.uint8]:
    return np.random.default_rng(index).integers(256, size=(SIZE, SIZE, 3), dtype=np.uint8)


def _peak() -> int:
    kilo = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilo


if __name__ == "__main__":
    main()
