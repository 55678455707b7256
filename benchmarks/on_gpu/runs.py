"""Runs of the two commands: an epoch with every callback, a kill and a resume, and an evaluation."""

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from on_gpu.steps import hand_epochs, mnist_cnn, our_epochs
from on_gpu.timing import DEVICE, GPU, SEED, Row
from torch import Tensor

import litlens

BENCHMARKS = Path(__file__).resolve().parents[1]
CONFIGS = BENCHMARKS.parent / "configs"


def epoch(options: argparse.Namespace) -> list[Row]:
    """`mnist_cnn` by the command with every callback on, then against a hand-written loop with the set on the GPU."""
    rows = []
    for batch, workers in ((64, 0),) if options.quick else ((64, 8), (512, 0), (512, 8)):
        run = _command_run(options, batch=batch, workers=workers, epochs=2)
        last = run["epochs"][-1]
        name = f"epoch of mnist_cnn, batch {batch}, {workers} workers, augmented, every callback"
        images = (3 if options.quick else 55_000 // batch) * batch
        rows.append(
            {"what": name, "ours_s": round(last["whole"], 3), "images_per_s": round(images / last["training"])}
            | {"training_s": round(last["training"], 3), "test_accuracy": run["accuracy"]}
        )
    size = 64 if options.quick else 512
    data = litlens.MNISTDataModule(options.data, batch_size=size, seed=SEED)
    data.prepare_data()
    data.setup("fit")
    steps = 3 if options.quick else len(data.train_dataloader())
    # The hand loop: normalized once, shuffled and indexed on the GPU.
    whole = [torch.cat(parts) for parts in zip(*data.train_dataloader(), strict=True)]
    images, labels = whole[0].to(DEVICE), whole[1].to(DEVICE)

    def on_the_gpu() -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(images), device=DEVICE)
        for indices in order.split(size):
            yield images[indices], labels[indices]

    hand = hand_epochs(mnist_cnn(), on_the_gpu, steps=steps)
    ours, waits = our_epochs(mnist_cnn(), data, steps=steps)
    seconds = {"ours_s": round(ours, 4), "hand_s": round(hand, 4), "ratio": round(hand / ours, 3)}
    rates = {"images_per_s": round(size * steps / ours), "hand_images_per_s": round(size * steps / hand)}
    rates["synchronizations_per_step"] = waits
    return [
        *rows,
        {"what": f"training epoch of MnistCNN, batch {size}, not augmented, set in memory", **seconds, **rates},
    ]


def resume(options: argparse.Namespace) -> list[Row]:
    """A run of digits_cnn that is killed in its third epoch and resumed, against an uninterrupted one."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--config", str(CONFIGS / "digits_cnn.yaml"), "--trainer.max_epochs=4"]
        if GPU:
            arguments += ["--trainer.deterministic=true", "--trainer.precision=bf16-mixed"]
        kill = ["--trainer.callbacks+=on_gpu.runs.KillAt", "--trainer.callbacks.step=80"]
        cases = {"whole": [], "again": [], "killed": kill}
        started = {name: _train(Path(folder, name), [*arguments, *extra]) for name, extra in cases.items()}
        ended = {name: (process.wait(), Path(folder, name, "log").read_text()) for name, process in started.items()}
        for name in ("whole", "again"):
            assert ended[name][0] == 0, ended[name][1][-2000:]
        assert ended["killed"][0] == -signal.SIGKILL, ended["killed"][1][-2000:]
        run = _run_folder(Path(folder, "killed"))
        resumed = _train(Path(folder, "killed"), ["--resume", str(run.relative_to(Path(folder, "killed")))])
        assert resumed.wait() == 0, Path(folder, "killed", "log").read_text()[-2000:]
        names = ("whole", "again", "killed")
        last = {name: _load(_run_folder(Path(folder, name)) / "checkpoints" / "last.ckpt") for name in names}
    keys = ("state_dict", "optimizer_states", "lr_schedulers")
    return [
        {"what": f"{what}: equal to an uninterrupted run, bit for bit"}
        | {key: _equal(last["whole"][key], last[name][key]) for key in keys}
        for what, name in (("the same run again", "again"), ("killed at step 80 and resumed", "killed"))
    ]


def evaluate(options: argparse.Namespace) -> list[Row]:
    """MNIST's 10,000 scored by `evaluate.py` from one checkpoint: on the CPU, on the GPU, and there without TF32.

    TF32 is what cuDNN computes convolutions of float32 in by default: ten bits of mantissa.
    """
    gpu = "gpu" if GPU else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        run = _command_run(options, batch=512, workers=4, epochs=1, keep=folder)["folder"]
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


def _command_run(
    options: argparse.Namespace, *, batch: int, workers: int, epochs: int, keep: str | None = None
) -> dict[str, Any]:
    """Train mnist_cnn by the command, in this process: its epochs' seconds, test accuracy and folder."""
    from litlens.cli.main import train

    before = Path.cwd()
    sys.path.insert(0, str(BENCHMARKS))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(keep or folder)
        try:
            arguments = ["--config", str(CONFIGS / "mnist_cnn.yaml"), f"--data.root={options.data}"]
            arguments += [f"--data.batch_size={batch}", f"--data.num_workers={workers}"]
            arguments += [f"--trainer.max_epochs={epochs}", "--trainer.enable_progress_bar=false"]
            if options.quick:
                arguments += ["--trainer.limit_train_batches=3", "--trainer.limit_val_batches=2"]
                arguments += ["--trainer.limit_test_batches=2", "--trainer.precision=32-true"]
            arguments += ["--trainer.callbacks+=on_gpu.timing.Stopwatch", "--trainer.callbacks.file=epochs.json"]
            train(arguments)
            run = _run_folder(Path.cwd())
            results = yaml.safe_load((run / "results.json").read_text(encoding="utf-8"))
            timed = json.loads(Path("epochs.json").read_text(encoding="utf-8"))
            return {"epochs": timed, "folder": str(run.resolve()), "accuracy": _accuracy(results)}
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


def _accuracy(results: Any) -> float | None:
    """The first number called accuracy, wherever results.json has it."""
    if isinstance(results, dict):
        for name, value in results.items():
            if name.startswith("accuracy") and isinstance(value, float):
                return round(value, 4)
        return next((found for value in results.values() if (found := _accuracy(value)) is not None), None)
    return None


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
