"""The commands as a user starts them, each side in a process of its own: help, first step, evaluation, whole run."""

import argparse
import contextlib
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from lightning.pytorch import Callback, LightningModule, Trainer
from speed_rows.batches import unpacked
from speed_rows.row import Row, row, take_turns

import litlens

ROOT = Path(__file__).resolve().parents[2]
ROWS = Path(__file__).parent
TRAIN, EVALUATE = str(ROOT / "train.py"), str(ROOT / "evaluate.py")
IMPORT = ["-c", "import lightning.pytorch"]
# The network of lightning-hydra-template's run of MNIST.
WIDTHS = (64, 128, 64)


def starts(options: argparse.Namespace) -> list[Row]:
    """`--help`, and the first training step of mnist_cnn, each against the import of Lightning."""
    with tempfile.TemporaryDirectory() as folder:
        first = [TRAIN, f"--config={ROOT / 'configs' / 'mnist_cnn.yaml'}", f"--data.root={options.data}"]
        first += ["--trainer.callbacks+=speed_rows.commands.EndAtFirstStep"]
        if options.quick:
            first += ["--trainer.callbacks.kill=false", "--trainer.fast_dev_run=true"]
        run = partial(python, options, Path(folder))
        shown, trained, imported = _turns(options, *(partial(run, side) for side in ([TRAIN, "--help"], first, IMPORT)))
    return [
        row("train.py --help, against the import of lightning.pytorch", shown, imported, at_most=0.01),
        row("first step of mnist_cnn, against the import of lightning.pytorch", trained, imported, at_most=1.3),
    ]


class EndAtFirstStep(Callback):
    """End the process where the first training step begins."""

    def __init__(self, kill: bool = True) -> None:
        self.kill = kill

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """End without what a process does at its end, which takes a second."""
        if self.kill:
            os._exit(0)


def evaluate(options: argparse.Namespace) -> list[Row]:
    """evaluate.py on MNIST's 10,000 images, page included, against the import and the same forward passes."""
    with tempfile.TemporaryDirectory() as folder:
        run = partial(python, options, Path(folder))
        short = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.callbacks=null"]
        run([TRAIN, *_mlp(options), *short])
        checkpoint = next(Path(folder).glob("runs/*/*/checkpoints/best.ckpt"))
        ours = partial(run, [EVALUATE, f"--ckpt_path={checkpoint}", f"--data.root={options.data}"])
        theirs = partial(run, [str(ROWS / "forward_passes.py"), str(checkpoint), str(_raw(options, Path(folder)))])
        sides = _turns(options, ours, theirs)
    what = "evaluate.py of an MLP on MNIST's 10,000 images, page included: seconds more than a process that imports "
    return [row(f"{what}Lightning and does the same forward passes", *sides, at_most=2.5, difference=True)]


def whole_run(options: argparse.Namespace) -> list[Row]:
    """An MLP on MNIST: fit, test, everything drawn, the page; against lightning-hydra-template's recipe."""
    with tempfile.TemporaryDirectory() as folder:
        run = partial(python, options, Path(folder))
        epochs = ["--trainer.fast_dev_run=true"] if options.quick else ["--trainer.max_epochs=10"]
        ours = partial(run, [TRAIN, *_mlp(options), "--early_stopping=null", *epochs])
        recipe = [str(ROWS / "template_recipe.py"), str(_raw(options, Path(folder)))]
        theirs = partial(run, [*recipe, *(["1", "2"] if options.quick else ["10"])])
        sides = take_turns(ours, theirs, repeats=1 if options.quick else 3, warm_up=0)
    what = "a whole run of an MLP on MNIST, 10 epochs, everything drawn, test and page included, against the recipe of "
    return [row(f"{what}lightning-hydra-template as a plain Lightning script, CSV log alone", *sides, at_least=2.5)]


def python(
    options: argparse.Namespace, folder: Path, arguments: list[str], *, processes: int = 1, threads: int | None = None
) -> None:
    """Run Python in a folder, its output unseen, as often at once; to be quick, once in this process."""
    if options.quick:
        _in_this_process(folder, arguments)
        return
    paths = [str(ROOT / "src"), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "LITLENS_CACHE": str(folder / "cache")}
    environment["OMP_NUM_THREADS"] = str(threads or options.threads)
    with (folder / "output").open("a+b") as output:
        command = [sys.executable, *arguments]
        started = [
            subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
            for _ in range(processes)
        ]
        if [process for process in started if process.wait()]:
            output.seek(0)
            raise RuntimeError(f"{' '.join(command)}:\n{output.read().decode()[-4000:]}")


def _in_this_process(folder: Path, arguments: list[str]) -> None:
    before = Path.cwd()
    os.chdir(folder)
    try:
        with (
            mock.patch.object(sys, "argv", arguments),
            mock.patch.dict(os.environ, {"LITLENS_CACHE": str(folder / "cache")}),
            Path(os.devnull).open("w") as nowhere,
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
        ):
            if arguments[0].endswith(".py"):
                runpy.run_path(arguments[0], run_name="__main__")
    finally:
        os.chdir(before)


def _turns(options: argparse.Namespace, *sides: Callable[[], object]) -> list[list[float]]:
    return take_turns(*sides, repeats=1, warm_up=0) if options.quick else take_turns(*sides, repeats=5)


def _mlp(options: argparse.Namespace) -> list[str]:
    """The template's network and batch size, as options of train.py."""
    data = ["--data=MNISTDataModule", f"--data.root={options.data}", "--data.batch_size=128"]
    network = ["--model.network=litlens.MLP", f"--model.network.widths={list(WIDTHS)}"]
    return [*data, "--model=ImageClassifier", *network, "--model.network.batch_norm=true"]


def _raw(options: argparse.Namespace, folder: Path) -> Path:
    return unpacked(litlens.MNISTDataModule(options.data).source_files(), folder / "raw")
