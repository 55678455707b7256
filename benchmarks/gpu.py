"""Measure litlens on one GPU against hand-written loops, in under five minutes.

    python benchmarks/gpu.py --data data                      # every row; writes docs/gpu.json
    python benchmarks/gpu.py --data data --rows held resume    # these rows; the others in the file stay
    python benchmarks/gpu.py --data data --quick               # tiny, on a CPU too: a test: writes nothing

`--data` holds `MNIST/raw`. The most important rows come first; none starts after `--seconds`, and each ends after 45 s,
`resume` after 90. A ratio is always the hand-written time over ours: 1 is as fast, below 1 is slower. The hand-written
loop has its batches on the GPU, the same precision, memory format and optimizer, and no metrics. `of_limit` is the
arithmetic of the forward and backward passes, as torch's FlopCounterMode counts it, over the rate of the large bf16
matrix product that the row `limit` measures.
"""

import argparse
import datetime
import importlib.metadata
import json
import logging
import platform
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from on_gpu.runs import batches, epoch, evaluate, resume, speedrun
from on_gpu.steps import (
    compiled,
    finite_loss,
    grad_cam,
    held,
    large_steps,
    limit,
    resnet18,
    small_steps,
)
from on_gpu.timing import GPU, SEED, Row, Skipped

ROWS: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    "limit": limit,
    "epoch": epoch,
    "speedrun": speedrun,
    "held": held,
    "resnet18": resnet18,
    "grad_cam": grad_cam,
    "batches": batches,
    "small_steps": small_steps,
    "large_steps": large_steps,
    "resume": resume,
    "evaluate": evaluate,
    "finite_loss": finite_loss,
    "compiled": compiled,
}
_SECONDS_OF_A_ROW = 45


def main() -> None:
    """Measure the rows asked for, print one table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of data sets")
    parser.add_argument("--output", type=Path, default=Path("docs/gpu.json"))
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seconds", type=float, default=240, help="no row starts later")
    parser.add_argument("--quick", action="store_true", help="a short test; writes nothing")
    options = parser.parse_args()
    if not GPU and not options.quick:
        parser.error("no GPU is visible to torch; --quick runs on a CPU")
    options.data, output = options.data.resolve(), options.output.resolve()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (
        "does not have many workers",
        "treespec, LeafSpec",
        "smaller than the logging",
        "no `val_dataloader`",
    ):
        warnings.filterwarnings("ignore", message=f".*{message}")
    known = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {}
    if not GPU or known.get("card") != torch.cuda.get_device_name():  # of one card alone
        known = {"rows": {}}
    failed, begin = [], time.perf_counter()
    signal.signal(signal.SIGALRM, _too_long)
    for name in options.rows:
        start = time.perf_counter()
        try:
            if start - begin > options.seconds:
                raise Skipped(f"{options.seconds:.0f} s are over")
            signal.alarm(0 if options.quick else _SECONDS_OF_A_ROW * (2 if name == "resume" else 1))
            rows = ROWS[name](options)
        except Skipped as reason:
            print(f"{name}: skipped: {reason}", file=sys.stderr, flush=True)
            continue
        except BaseException as error:  # the rows after it are still measured
            if isinstance(error, KeyboardInterrupt):
                raise
            traceback.print_exc()
            failed.append(name)
            continue
        finally:
            signal.alarm(0)
        known["rows"][name] = _of_limit(rows, known["rows"].get("limit"))
        print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        for row in known["rows"][name]:
            print(f"  {row['what']}: {', '.join(f'{key} {row[key]}' for key in row if key != 'what')}", flush=True)
        if not options.quick:
            known |= _circumstances()
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps(known, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(_table([row for rows in known["rows"].values() for row in rows]))
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


def _too_long(*_: object) -> None:
    raise TimeoutError("the row takes too long")


def _of_limit(rows: list[Row], limits: list[Row] | None) -> list[Row]:
    for row in rows:
        if limits and "ours_s" in row and "tflops" in row:
            row["of_limit"] = float(f"{row['tflops'] / limits[0]['tflops']:.2g}")
    return rows


def _circumstances() -> dict[str, Any]:
    packages = ("torch", "torchvision", "lightning", "grad-cam", "numpy")
    return {
        "script": "benchmarks/gpu.py",
        "card": torch.cuda.get_device_name(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "seed": SEED,
        "versions": {"python": platform.python_version(), "cuda": torch.version.cuda}
        | {name: importlib.metadata.version(name) for name in packages},
    }


def _table(rows: list[Row]) -> str:
    shown = ("ours_s", "hand_s", "ratio", "images_per_s", "hand_images_per_s", "of_limit")
    lines = [["", *shown], *([row["what"], *(str(row.get(name, "")) for name in shown)] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(shown) + 1)]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    )


if __name__ == "__main__":
    main()
