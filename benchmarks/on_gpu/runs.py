"""Runs: epochs by the command, the speedrun, a kill and a resume, an evaluation, and where batches come from."""

import argparse
import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from on_gpu import steps
from on_gpu.timing import GPU, SEED, Row, Skipped
from torch import Tensor

import litlens

BENCHMARKS = Path(__file__).resolve().parents[1]
CONFIGS = BENCHMARKS.parent / "configs"


def epoch(options: argparse.Namespace) -> list[Row]:
    """An epoch of `mnist_cnn` by the command, every callback on, in batches of 512 with a fused optimizer."""
    rows = []
    plain = "--data.augment=null"
    cases = {
        "not augmented, held on the GPU": [plain],
        "augmented by workers": [],
        "not augmented, 16-mixed": [plain, "--trainer.precision=16-mixed"],
    }
    fast = ["--config", str(CONFIGS / "with" / "fused.yaml"), "--data.batch_size=512", "--trainer.max_epochs=2"]
    for name, extra in cases.items():
        run = _command_run(options, "mnist_cnn", *fast, *extra)
        last = run["epochs"][-1]
        images = (3 if options.quick else 55_000 // 512) * 512
        rows.append(
            {"what": f"epoch of mnist_cnn, batch 512, fused, every callback, {name}", "ours_s": round(last["whole"], 3)}
            | {"images_per_s": round(images / last["training"]), "training_s": round(last["training"], 3)}
            | {"test_accuracy": run["accuracy"]}
        )
    return rows


def speedrun(options: argparse.Namespace) -> list[Row]:
    """`mnist_speedrun`, three seeds, against the published 0.76 s (github tuomaso/train_mnist_fast, GTX 1660 Ti)."""
    if not (CONFIGS / "mnist_speedrun.yaml").exists():
        raise Skipped("there is no configs/mnist_speedrun.yaml")
    nothing_drawn = ["--config", str(CONFIGS / "with" / "csv.yaml")]
    seeds = [f"--seed_everything={42 + number}" for number in range(3)]
    runs = [_command_run(options, "mnist_speedrun", *nothing_drawn, seed) for seed in seeds]
    drawn = _command_run(options, "mnist_speedrun", seeds[0])
    seconds = statistics.median(run["seconds"] for run in runs[1:])  # the first run loads the kernels
    return [
        {"what": "mnist_speedrun, first to last step, validation and checkpoints included (hand: published)"}
        | {"ours_s": round(seconds, 3), "hand_s": 0.76, "ratio": round(0.76 / seconds, 2)}
        | {"steps_s": round(sum(epoch["training"] for epoch in runs[-1]["epochs"]), 3)}
        | {"first_run_s": round(runs[0]["seconds"], 3), "drawn_for_tensorboard_s": round(drawn["seconds"], 3)}
        | {"test_accuracies": [run["accuracy"] for run in runs]}
    ]


def batches(options: argparse.Namespace) -> list[Row]:
    """Batches held on the GPU, from memory and from workers, two epochs, compared bit for bit."""
    random = np.random.default_rng(SEED)
    pixels, labels = random.integers(0, 256, (1500, 40, 40, 3), dtype=np.uint8), random.integers(0, 10, 1500)
    ways = {
        "held": {"on_device": True},
        "memory": {"on_device": False},
        "workers": {"on_device": False, "num_workers": 2},
    }
    seen = {}
    for name, way in ways.items():
        keep = _Keep()
        with tempfile.TemporaryDirectory() as folder:
            trainer = steps._trainer(folder, [keep], max_epochs=2)
            classifier = steps._classifier(litlens.MLP(10, in_channels=3, image_size=(40, 40)), 10)
            trainer.fit(classifier, datamodule=steps.in_memory(pixels, labels, batch_size=64, **way))
        seen[name] = keep.batches
    return [
        {"what": "batches held on the GPU and normalized there, bit for bit", "number": len(seen["held"])}
        | {f"equal to those of {name}": _equal(seen["held"], seen[name]) for name in ("memory", "workers")}
    ]


def resume(options: argparse.Namespace) -> list[Row]:
    """A run of digits_cnn that is killed in its second epoch and resumed, against an uninterrupted one."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--config", str(CONFIGS / "digits_cnn.yaml"), "--trainer.max_epochs=3"]
        arguments += ["--config", str(CONFIGS / "with" / "csv.yaml")]
        if GPU:  # not augmented: the data are held there
            arguments += ["--trainer.deterministic=true", "--trainer.precision=bf16-mixed", "--data.augment=null"]
        kill = ["--trainer.callbacks+=on_gpu.runs.KillAt", "--trainer.callbacks.step=50"]
        cases = {"whole": [], "again": [], "killed": kill}
        started = {name: _train(Path(folder, name), [*arguments, *extra]) for name, extra in cases.items()}
        try:
            ended = {name: (process.wait(), Path(folder, name, "log").read_text()) for name, process in started.items()}
            for name in ("whole", "again"):
                assert ended[name][0] == 0, ended[name][1][-2000:]
            assert ended["killed"][0] == -signal.SIGKILL, ended["killed"][1][-2000:]
            run = _run_folder(Path(folder, "killed"))
            resumed = _train(Path(folder, "killed"), ["--resume", str(run.relative_to(Path(folder, "killed")))])
            started["resumed"] = resumed
            assert resumed.wait() == 0, Path(folder, "killed", "log").read_text()[-2000:]
        finally:
            for process in started.values():
                process.kill()
        names = ("whole", "again", "killed")
        last = {name: _load(_run_folder(Path(folder, name)) / "checkpoints" / "last.ckpt") for name in names}
    keys = ("state_dict", "optimizer_states", "lr_schedulers")
    return [
        {"what": f"{what}: equal to an uninterrupted run, bit for bit"}
        | {key: _equal(last["whole"][key], last[name][key]) for key in keys}
        for what, name in (("the same run again", "again"), ("killed at step 50 and resumed", "killed"))
    ]


def evaluate(options: argparse.Namespace) -> list[Row]:
    """MNIST's 10,000 scored by `evaluate.py` from one checkpoint: on the CPU, on the GPU, and there without TF32.

    TF32 is what cuDNN computes convolutions of float32 in by default: ten bits of mantissa.
    """
    gpu = "gpu" if GPU else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        fast = ["--data.batch_size=512", "--data.augment=null", "--trainer.max_epochs=1"]
        run = _command_run(options, "mnist_cnn", *fast, keep=folder)["folder"]
        cpu_s, cpu = _score(options, run, Path(folder, "cpu"), "cpu")
        cases = {"as shipped": _score(options, run, Path(folder, "gpu"), gpu)}
        torch.backends.cudnn.allow_tf32 = False
        cases["without TF32"] = _score(options, run, Path(folder, "float32"), gpu)
        torch.backends.cudnn.allow_tf32 = True
    chosen = cpu[0].index("predicted")
    return [
        {"what": f"evaluate.py on MNIST's test, report included, {name}: GPU (ours) against CPU (hand)"}
        | {"ours_s": round(seconds, 2), "hand_s": round(cpu_s, 2)}
        | {"predicted_differently": sum(a[chosen] != b[chosen] for a, b in zip(cpu, table, strict=True))}
        | {"largest_difference_of_a_number": float(f"{_largest_difference(cpu, table):.2g}")}
        for name, (seconds, table) in cases.items()
    ]


class KillAt(Callback):
    """End the process without a warning in one step, once, as a power cut would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """End the process, the first time that this step is reached."""
        mark = Path("killed")  # the resumed run has this callback, too
        if trainer.global_step == self.step and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


class _Keep(Callback):
    """Keeps every batch."""

    def __init__(self) -> None:
        self.batches: list[Any] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.batches.append([part.clone() for part in batch])


def _command_run(options: argparse.Namespace, config: str, *arguments: str, keep: str | None = None) -> dict[str, Any]:
    """Train a config by the command, in this process: its seconds and epochs, test accuracy and folder."""
    from litlens.cli.main import train

    before = Path.cwd()
    sys.path.insert(0, str(BENCHMARKS))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(keep or folder)
        try:
            given = ["--config", str(CONFIGS / f"{config}.yaml"), f"--data.root={options.data}", *arguments]
            if options.quick:
                given += ["--data.batch_size=8", "--trainer.callbacks=[]", "--trainer.limit_train_batches=3"]
                given += ["--trainer.limit_val_batches=2"]
                given += ["--trainer.limit_test_batches=2", "--trainer.precision=32-true", "--trainer.max_epochs=1"]
            given += ["--trainer.enable_progress_bar=false", "--trainer.callbacks+=on_gpu.timing.Stopwatch"]
            train([*given, "--trainer.callbacks.file=epochs.json"])
            run = _run_folder(Path.cwd())
            results = yaml.safe_load((run / "results.json").read_text(encoding="utf-8"))
            timed = json.loads(Path("epochs.json").read_text(encoding="utf-8"))
            return {**timed, "folder": str(run.resolve()), "accuracy": round(results["accuracy_test"], 4)}
        finally:
            os.chdir(before)


def _score(options: argparse.Namespace, run: str, output: Path, device: str) -> tuple[float, list[list[str]]]:
    """Seconds of `evaluate.py`, in this process, and its table of predictions."""
    from litlens.cli.main import evaluate

    arguments = ["--ckpt_path", run, "--accelerator", device, "--output", str(output)]
    start = time.perf_counter()
    evaluate([*arguments, f"--data.root={options.data}"])
    seconds = time.perf_counter() - start
    with next(output.glob("predictions*.csv")).open(encoding="utf-8", newline="") as file:
        return seconds, list(csv.reader(file))


def _largest_difference(table: list[list[str]], other: list[list[str]]) -> float:
    """Of any two numbers in the same place."""
    pairs = (
        (_number(a), _number(b)) for row, same in zip(table, other, strict=True) for a, b in zip(row, same, strict=True)
    )
    return max(abs(a - b) for a, b in pairs if a is not None and b is not None)


def _train(folder: Path, arguments: list[str]) -> "subprocess.Popen[bytes]":
    folder.mkdir(exist_ok=True)
    paths = [str(BENCHMARKS), *sys.path]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    code = "import sys; from litlens.cli.main import train; train(sys.argv[1:])"
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-c", code, *arguments], cwd=folder, env=environment, stdout=log, stderr=log
        )


def _run_folder(folder: Path) -> Path:
    return next(path.parent for path in sorted(folder.glob("runs/*/*/checkpoints")))


def _load(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(_equal(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
