"""Measure litlens against what a person would write or install instead: docs/speed.json.

    python benchmarks/speed.py --data data --weights weights                 # the rows that are not measured yet
    python benchmarks/speed.py --data data --weights weights --rows batches   # these rows, again
    python benchmarks/speed.py --data data --weights weights --quick          # a test: tiny, and writes nothing

`--data` holds `MNIST/raw`, `FashionMNIST/raw`, `catdog_2k` and `catanddog`, `--weights` the ImageNet weights that the
configs name, and `--fastai` is a Python that has fastai; a row without what it needs is skipped, with the reason. Each
row is written once it is measured, so a run that was stopped continues. Both sides of a row take turns, and its ratio
is the median over the turns; a long training is run once a side. Nothing else should run on the machine. Steps,
features and the commands run on a GPU where there is one; benchmarks/gpu.py measures more of it.
"""

import argparse
import json
import logging
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from on_gpu.timing import DEVICE
from speed_rows.accuracy import fashion_accuracy, fonts_accuracy, mnist_accuracy, settings_accuracy
from speed_rows.batches import batches
from speed_rows.commands import evaluate, starts, whole_run
from speed_rows.folders import decoded, jpegs
from speed_rows.pretrained import callbacks, fastai_epoch, features, frozen_vgg16, grad_cam
from speed_rows.processes import processes
from speed_rows.row import Row, Skipped
from speed_rows.steps import settings, step

from litlens.checkpoints.provenance import hardware, versions

ROOT = Path(__file__).resolve().parents[1]
# A function takes the options and returns one or more rows; the name is the one of `--rows` and of the file.
ROWS: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    "batches": batches,
    "step": step,
    "settings": settings,
    "jpegs": jpegs,
    "decoded": decoded,
    "frozen_vgg16": frozen_vgg16,
    "fastai_epoch": fastai_epoch,
    "features": features,
    "grad_cam": grad_cam,
    "callbacks": callbacks,
    "starts": starts,
    "processes": processes,
    "evaluate": evaluate,
    "whole_run": whole_run,
    "mnist_accuracy": mnist_accuracy,
    "fashion_accuracy": fashion_accuracy,
    "fonts_accuracy": fonts_accuracy,
    "settings_accuracy": settings_accuracy,
}


def main(arguments: list[str] | None = None) -> None:
    """Measure the rows that are asked for, write each one, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of data sets")
    parser.add_argument("--weights", type=Path, default=ROOT / "weights", help="the folder of weights")
    parser.add_argument("--fastai", type=Path, help="a Python that has fastai")
    parser.add_argument("--rows", nargs="+", choices=ROWS, help="by default those that the file does not have")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "speed.json")
    parser.add_argument("--quick", action="store_true", help="a short test; writes nothing")
    options = parser.parse_args(arguments)
    options.data, options.weights = options.data.resolve(), options.weights.resolve()
    torch.set_num_threads(options.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    measured = {} if options.quick or not options.output.exists() else json.loads(options.output.read_text())["rows"]
    failed = []
    for name in options.rows or [name for name in ROWS if name not in measured]:
        start = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                rows = ROWS[name](options)
        except Skipped as reason:
            print(f"{name}: skipped: {reason}", file=sys.stderr, flush=True)
            continue
        except Exception:  # the rows after it are still measured
            if options.quick:
                raise
            traceback.print_exc()
            failed.append(name)
            continue
        print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        measured[name] = [row.to_dict() | _circumstances(options) for row in rows]
        if not options.quick:
            text = json.dumps({"script": "benchmarks/speed.py", "rows": measured}, indent=2, ensure_ascii=False)
            options.output.write_text(text + "\n", encoding="utf-8")
    print(_table([row for name in ROWS for row in measured.get(name, [])]))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def _circumstances(options: argparse.Namespace) -> dict[str, Any]:
    named = {"threads": options.threads, "device": hardware(DEVICE), "versions": versions()}
    return named | {"date": date.today().isoformat()}


def _table(rows: list[dict[str, Any]]) -> str:
    shown = ("ratio", "reach", "holds", "ours", "theirs", "repeats")
    lines = [[*shown, "what"], *([*(str(row[name]) for name in shown), row["what"]] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(shown))]
    return "\n".join(
        "  ".join([*(cell.rjust(width) for cell, width in zip(line, widths, strict=False)), line[-1]]) for line in lines
    )


if __name__ == "__main__":
    main()
