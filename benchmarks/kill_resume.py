"""A run killed anywhere and resumed ends as one that nobody touched: docs/reliability.json.

    python benchmarks/kill_resume.py                      # 160 kills, about a quarter of an hour on two cores
    python benchmarks/kill_resume.py --steps 3 --instants 3 --output /tmp/reliability.json

A small run has all that is hard to go on with: dropout, shuffling, augmentation, MixUp, a schedule of single steps,
fine-tuning in two stages with a factor of the head's learning rate, early stopping, and checkpoints within epochs. It
is killed (SIGKILL) in the middle of each of its 60 steps, and at random instants from its first checkpoint, before the
first step, to its end. In a third of the runs a checkpoint follows every step, in the others every 0.3 s or 1 s; half
of them load their data in two processes. Each is resumed once, and compared to the last bit with an untouched run: both
checkpoints with all they hold, metrics.csv, what TensorBoard reads from the event files, the predictions and
results.json.

Every run is the command itself in a process forked from this one, which has imported everything. In place of figures it
shows digests of what they would show, and it writes no page: drawing takes longer than the run.
"""

import argparse
import csv
import hashlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn import datasets as datasets
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils import tensorboard as tensorboard

from litlens.callbacks.live import drawing, score_figures
from litlens.checkpoints.provenance import versions
from litlens.checkpoints.reading import BEST, LAST, read_checkpoint
from litlens.cli import train as command
from litlens.cli.main import train

# Imported by the command when it is asked for; here before the fork, as each takes a second.
from litlens.data import augment as augment

STEPS, EPOCHS = 60, 5
CONFIG = {
    "seed_everything": 7,
    "data": {
        "class_path": "DigitsDataModule",
        "init_args": {"batch_size": 16, "augment": [{"rotation": 10}, {"shift": 0.1}]},
    },
    "model": {
        "class_path": "TransferClassifier",
        "init_args": {
            "network": {
                "class_path": "TransferNetwork",
                "init_args": {"backbone": "shufflenet_v2_x0_5", "weights": None, "dropout": 0.3},
            },
            "strategy": "finetune",
            "unfreeze_epoch": 2,
            "optimizer": {"class_path": "AdamW", "init_args": {"lr": 0.003, "weight_decay": 0.05}},
            "lr_scheduler": {"class_path": "OneCycleLR", "init_args": {"max_lr": 0.003}},
            "lr_scales": {"head": 3.0},
            "mixup": 0.2,
        },
    },
    # No loss falls by ten, so it stops after five of eight epochs.
    "early_stopping": {
        "class_path": "EarlyStopping",
        "init_args": {"monitor": "loss/val", "min_delta": 10, "patience": 4},
    },
    "trainer": {
        "max_epochs": 8,
        "limit_train_batches": STEPS // EPOCHS,
        "limit_val_batches": 2,
        "limit_test_batches": 3,
        "num_sanity_val_steps": 1,
        "log_every_n_steps": 5,
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [
            {"class_path": f"litlens.callbacks.{name}", "init_args": options}
            for name, options in {
                "LearningRate": {},
                "LearningCurves": {"every_n_epochs": 3},
                "PerClassMetrics": {"every_n_epochs": 100},
                "HyperParameters": {},
            }.items()
        ],
    },
}


PAGE = """\
# Reliability

Written by `python benchmarks/kill_resume.py`; reliability.json holds the same figures with all versions.

| check | tried | held | date | torch, lightning |
|---|---:|---:|---|---|
{rows}

The run: 60 steps of a network with dropout, fine-tuned in two stages, with shuffling, augmentation, MixUp, a schedule
of single steps and early stopping; 0 or 2 workers; a checkpoint after every step, or every 0.3 s or 1 s. Each run is
killed by SIGKILL once and resumed once. It holds if `last.ckpt` and `best.ckpt` (weights, optimizer, schedule,
callbacks, metrics, progress), metrics.csv, what TensorBoard reads from the event files, predictions-test.csv and
results.json equal those of an untouched run to the last bit, but for times and paths.

A checkpoint is written before the first step, at the end of each epoch, and within an epoch every ten minutes
(`--checkpoint_minutes`), also before a validation. It records how far the logs had come. On resume, what was logged
later is cut off and logged again, so no step is missing or there twice. That holds for metrics.csv and TensorBoard. In
W&B a resumed run is a new run of the same name, and the earlier one keeps what it had logged: W&B rewinds a run in a
private preview alone, and never offline (https://docs.wandb.ai/models/runs/rewind).
"""


def main() -> None:
    """Kill, resume, compare, print what did not hold, and write the figures to `--output`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=STEPS, help="how many kills in the middle of a step, up to 60")
    parser.add_argument("--instants", type=int, default=100, help="how many kills at a random instant")
    parser.add_argument("--jobs", type=int, default=2, help="how many runs at once")
    parser.add_argument("--seed", type=int, default=0, help="of the random instants")
    parser.add_argument("--output", type=Path, default=Path("docs/reliability.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(
            Path(folder), steps=options.steps, instants=options.instants, jobs=options.jobs, seed=options.seed
        )
    write(options.output, rows)
    print(json.dumps(rows, indent=2))
    sys.exit(any(row["held"] < row["tried"] for row in rows))


def measure(folder: Path, *, steps: int, instants: int, jobs: int, seed: int) -> list[dict[str, Any]]:
    """Kill at some steps and at some instants; a row of figures for each kind."""
    os.environ["LITLENS_CACHE"] = str(folder / "cache")
    (folder / "config.yaml").write_text(json.dumps(CONFIG))  # which is YAML
    untouched = [folder / f"untouched-{number}" for number in range(jobs)]
    runs = [start(place, ["--config", "../config.yaml"]) for place in untouched]
    _wait_for_checkpoint(untouched[0], runs[0])
    begin = time.monotonic()
    for place, child in zip(untouched, runs, strict=True):
        assert wait(child) == 0, (place / "log").read_text()
    seconds = time.monotonic() - begin
    expected, *others = (outcome(place) for place in untouched)
    assert not any(differences(other, expected) for other in others), "untouched runs differ"
    rng = random.Random(seed)
    chosen = range(STEPS) if steps == STEPS else sorted(rng.sample(range(STEPS), steps))
    kills: list[dict[str, Any]] = [{"step": step} for step in chosen]
    kills += [{"instant": rng.uniform(0, seconds)} for _ in range(instants)]
    trials = [
        (f"{next(iter(kill))}-{place}", {**kill, "minutes": (0, 0.3, 1)[place % 3] / 60, "workers": 2 * (place % 2)})
        for place, kill in enumerate(kills)
    ]
    lanes = [os.fork() or _lane(folder, trials[lane::jobs], expected) for lane in range(jobs)]
    for lane in lanes:
        os.waitpid(lane, 0)
    faults = {name: (folder / f"{name}.fault").read_text() for name, _ in trials}
    for name, fault in faults.items():
        if fault:
            print(f"{name}: {fault}", flush=True)
    return [
        {
            "check": f"{what}, resumed: equals the untouched run to the bit",
            "tried": len(found),
            "held": found.count(""),
            "date": date.today().isoformat(),
            "versions": versions(),
        }
        for kind, what in {"step": "killed in a step", "instant": "killed at a random instant"}.items()
        if (found := [fault for name, fault in faults.items() if name.startswith(kind)])
    ]


def _lane(folder: Path, trials: list[tuple[str, dict[str, Any]]], expected: dict[str, Any]) -> int:
    for name, options in trials:
        try:
            fault = trial(folder / name, expected, **options)
        except Exception:
            fault = traceback.format_exc()
        (folder / f"{name}.fault").write_text(fault)
        if fault:
            print(f"{name} {options}: {fault}", flush=True)
        else:
            shutil.rmtree(folder / name)
    os._exit(0)


def trial(
    folder: Path,
    expected: dict[str, Any],
    *,
    minutes: float,
    workers: int,
    step: int | None = None,
    instant: float | None = None,
) -> str:
    """Kill a run in a step or at an instant, resume it, and say what differs from the untouched one, if anything."""
    options = [f"--checkpoint_minutes={minutes}", f"--data.num_workers={workers}"]
    child = start(folder, ["--config", "../config.yaml", *options], step=step)
    if instant is not None:
        _wait_for_checkpoint(folder, child)
        time.sleep(instant)
        os.kill(child, signal.SIGKILL)  # if it has ended, it is still to be waited for
    wait(child)
    (killed,) = folder.glob("runs/*/*")
    status = wait(start(folder, ["--resume", str(killed.relative_to(folder))]))
    if status:
        return f"the resumed run ended with {status}: {(folder / 'log').read_text()[-3000:]}"
    return differences(outcome(folder), expected)


def start(folder: Path, args: list[str], *, step: int | None = None) -> int:
    """Start the command in a folder, in a process of its own that is killed in a step; its id."""
    folder.mkdir(exist_ok=True)
    if (child := os.fork()) == 0:
        os._exit(_command(folder, args, step))
    return child


def wait(child: int) -> int:
    """Wait for the end of a process; its exit status."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _wait_for_checkpoint(folder: Path, child: int) -> None:
    while not list(folder.glob(f"runs/*/*/{LAST}")):
        assert os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None, (folder / "log").read_text()
        time.sleep(0.005)


def _command(folder: Path, args: list[str], step: int | None) -> int:
    os.chdir(folder)
    with Path("log").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    drawing.pixels = lambda digest: digest
    score_figures.learning_curves_figure = score_figures.per_class_figure = _digest
    command.write_run_report = lambda run, *_, **__: run / "report.html"
    done = 0

    def kill(*_: Any) -> None:
        nonlocal done
        if done == step:
            os.kill(os.getpid(), signal.SIGKILL)
        done += 1

    register_optimizer_step_pre_hook(kill)
    try:
        train(args)
    except SystemExit as stop:
        return int(stop.code or 0)
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
        return 99
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _digest(values: Any, **_: Any) -> Any:
    return np.frombuffer(hashlib.sha512(repr(values).encode()).digest()[:48], np.uint8).reshape(4, 4, 3)


def outcome(folder: Path) -> dict[str, Any]:
    """All that a run leaves, by name, but for times, places, and how far its logs had come."""
    (run,) = folder.glob("runs/*/*")
    found: dict[str, Any] = {}
    for path in (LAST, BEST):
        checkpoint = read_checkpoint(run / path)
        # The options of the trial.
        for key in ("data.init_args.num_workers", "checkpoint_minutes"):
            _drop(checkpoint["litlens"]["config"], key)
        for key in ("logged", "seconds"):
            _drop(checkpoint, f"callbacks/LastCheckpoint/{key}", "/")
        found |= _flat(path.name, checkpoint, place=str(run))
    with (run / "metrics.csv").open(newline="") as file:
        found |= {f"metrics.csv, row {number}": row for number, row in enumerate(csv.reader(file))}
    found |= events(run)
    found["predictions-test.csv"] = (run / "predictions-test.csv").read_bytes()
    results = json.loads((run / "results.json").read_text())
    found |= {f"results.json, {key}": value for key, value in results.items() if key not in ("seconds", "date")}
    return found


def _drop(values: dict[str, Any], key: str, separator: str = ".") -> None:
    *parents, name = key.split(separator)
    for parent in parents:
        values = values[parent]
    del values[name]


def _flat(name: str, value: Any, *, place: str) -> dict[str, Any]:
    if isinstance(value, dict | list | tuple) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {
            key: leaf
            for inner, part in items
            for key, leaf in _flat(f"{name}/{inner}".replace(place, "RUN"), part, place=place).items()
        }
    if isinstance(value, torch.Tensor):
        return {name: (str(value.dtype), tuple(value.shape), value.numpy().tobytes())}
    return {name: value.replace(place, "RUN") if isinstance(value, str) else value}


def events(run: Path) -> dict[str, Any]:
    """What TensorBoard reads: for each tag, every step with its value."""
    reader = EventAccumulator(str(run), size_guidance={"scalars": 0, "images": 0, "tensors": 0, "histograms": 0})
    reader.Reload()
    tags = reader.Tags()
    found = {f"events, {tag}": [(event.step, event.value) for event in reader.Scalars(tag)] for tag in tags["scalars"]}
    for tag in tags["images"]:
        found[f"events, {tag}"] = [(event.step, event.encoded_image_string) for event in reader.Images(tag)]
    for tag in tags["tensors"]:
        # The configuration is text, and has the options of the kill.
        found[f"events, {tag}"] = [
            (event.step, re.sub(r"(checkpoint_minutes|num_workers): [\w.]+", r"\1", str(event.tensor_proto)))
            for event in reader.Tensors(tag)
        ]
    return found


def differences(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """The names of what differs, with short values."""
    names = [name for name in sorted(found.keys() | expected.keys()) if found.get(name) != expected.get(name)]
    return "; ".join(f"{name}: {found.get(name)!r:.150} for {expected.get(name)!r:.150}" for name in names[:12])


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Replace the rows of these checks, keep those of others, and write the page beside the file."""
    before = json.loads(path.read_text()) if path.is_file() else []
    checks = {row["check"] for row in rows}
    rows = [row for row in before if row["check"] not in checks] + rows
    path.write_text(json.dumps(rows, indent=2) + "\n")
    lines = [
        f"| {row['check']} | {row['tried']} | {row['held']} | {row['date']} | "
        f"{row['versions']['torch']}, {row['versions']['lightning']} |"
        for row in rows
    ]
    path.with_suffix(".md").write_text(PAGE.format(rows="\n".join(lines)))


if __name__ == "__main__":
    main()
