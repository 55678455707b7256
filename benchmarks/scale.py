"""Measure what grows with the number of files: time to the first batch, images per second, memory of each process.

    python benchmarks/scale.py --data data/catdog_2k               # 1, 4, 16, 64 times its files: docs/scale.json
    python benchmarks/scale.py --data data/catdog_2k --times 1 4   # only these
    python benchmarks/scale.py --data data/catdog_2k --quick       # a test: a few files, and writes nothing

The files are links to those in `--data`, in 1,000 classes. Each line is a process of its own with two workers: with
`cache: on` in an empty cache, again with what that left there, and with `cache: off`. Memory is each process's own
(RssAnon); mapped pages of the cache are the system's, which takes them back whenever it needs them. A million files
are estimated from a straight line through the measured points.
"""

import argparse
import json
import logging
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))
CLASSES, SIZE, HELD_OUT, WORKERS, BATCH = 1000, 96, 64, 2, 64
MEASURED = ("seconds_to_first_batch", "images_per_second", "mb_of_the_process", "mb_of_a_worker")


def main(arguments: list[str] | None = None) -> None:
    """Measure each number of files, print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder with images at any depth")
    parser.add_argument("--times", type=int, nargs="+", default=[1, 4, 16, 64], help="how often each file is linked")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "scale.json")
    parser.add_argument("--quick", action="store_true", help="a short test; writes nothing")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)  # a folder and `cache`: one line, as JSON
    options = parser.parse_args(arguments)
    if options.one:  # in a process of its own
        logging.disable(logging.WARNING)  # of the few steps of an epoch
        print(json.dumps(measure(Path(options.one[0]), options.one[1])))
        return
    images = sorted(path.resolve() for path in options.data.rglob("*") if path.is_file())
    images, times = (images[:300], [1]) if options.quick else (images, options.times)
    classes = 10 if options.quick else CLASSES
    lines = []
    for factor in times:
        with tempfile.TemporaryDirectory() as folder:
            link(images * factor, Path(folder) / "images", classes=classes)
            for cache, label in (("on", "on, empty"), ("on", "on, filled"), ("off", "off")):
                lines.append({"files": len(images) * factor, "cache": label} | in_process(Path(folder), cache))
                print(as_text(lines[-1]), flush=True)
    million = [
        estimate([line for line in lines if line["cache"] == label]) for label in ("on, empty", "on, filled", "off")
    ]
    for line in million:
        print(as_text(line))
    if not options.quick:
        result = {"script": "benchmarks/scale.py", "classes": classes, "image_size": SIZE, "workers": WORKERS}
        result |= circumstances() | {"measured": lines, "a_million_files_estimated": million}
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def link(images: list[Path], folder: Path, *, classes: int) -> None:
    """Links in `folder/SPLIT/CLASS`; a few of validation and test, all others of training."""
    for number, image in enumerate(images):
        split = "val" if number < HELD_OUT else "test" if number < 2 * HELD_OUT else "train"
        place = folder / split / f"class{number % classes:04}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:07}{image.suffix}").symlink_to(image)


def in_process(folder: Path, cache: str) -> dict[str, float]:
    """The figures of one line, from a process with a cache in `folder`."""
    command = [sys.executable, __file__, "--data", str(folder), "--one", str(folder / "images"), cache]
    environment = {**os.environ, "LITLENS_CACHE": str(folder / f"cache-{cache}")}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def measure(folder: Path, cache: Any) -> dict[str, float]:
    """Set up the data of a folder, and read an epoch of at most 4,000 images."""
    import litlens.data.augment  # noqa: F401  (albumentations takes seconds to import, whatever the files)
    from litlens.data.datasets.folder import FolderDataModule

    memory = Memory()
    start = time.perf_counter()
    data = FolderDataModule(
        folder, image_size=SIZE, batch_size=BATCH, augment=["horizontal_flip"], num_workers=WORKERS, cache=cache
    )
    data.prepare_data()
    data.setup("fit")
    batches = iter(data.train_dataloader())
    next(batches)
    first = time.perf_counter()
    number = sum(len(labels) for _, (_, labels) in zip(range(4000 // BATCH), batches, strict=False))
    seconds = time.perf_counter() - first
    memory.stop()
    return dict(zip(MEASURED, (first - start, number / seconds, memory.process, memory.worker), strict=True))


class Memory:
    """The largest memory, in MB, of this process above what it has now, and of any of its children."""

    def __init__(self) -> None:
        self._start = own_memory(os.getpid())
        self.process = self.worker = 0.0
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look once more, and end."""
        self._ends.set()
        self._thread.join()

    def _watch(self) -> None:
        ended = False
        while not ended:
            ended = self._ends.wait(0.05)
            self.process = max(self.process, own_memory(os.getpid()) - self._start)
            for child in multiprocessing.active_children():
                self.worker = max(self.worker, own_memory(child.pid) - self._start)


def own_memory(process: int | None) -> float:
    """The anonymous memory of a process in MB: what no file has."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:  # it has ended, or this is not Linux
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon")), 0.0)


def estimate(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of a million files, by least squares; the images per second of the largest number."""
    import numpy as np

    def at_a_million(name: str) -> float:
        if len(lines) == 1 or name == "images_per_second":
            return float(lines[-1][name])
        return float(np.polyval(np.polyfit([line["files"] for line in lines], [line[name] for line in lines], 1), 1e6))

    return {"files": 1_000_000, "cache": lines[-1]["cache"]} | {name: at_a_million(name) for name in MEASURED}


def circumstances() -> dict[str, Any]:
    """The machine, the versions and the date."""
    import torch

    from litlens.checkpoints.provenance import hardware, versions

    return {"hardware": hardware(torch.device("cpu")), "versions": versions(), "date": date.today().isoformat()}


def as_text(line: dict[str, Any]) -> str:
    """One line of the table."""
    first, rate, process, worker = (line[name] for name in MEASURED)
    return (
        f"{line['files']:>9,} files, cache {line['cache']:10}: first batch after {first:7.1f} s, {rate:7,.0f} images/s,"
        f" {process:6.0f} MB of the process, {worker:6.0f} MB of a worker"
    )


if __name__ == "__main__":
    main()
