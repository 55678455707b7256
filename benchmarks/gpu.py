"""Measure litlens on one GPU against hand-written loops, in under eight minutes.

    python benchmarks/gpu.py --data data                      # every row; writes docs/gpu.json
    python benchmarks/gpu.py --data data --rows step resume    # these rows; the others in the file stay
    python benchmarks/gpu.py --data data --quick               # tiny, on a CPU too: a test: writes nothing

`--data` holds `MNIST/raw`. A ratio is always the hand-written time over ours: 1 is as fast, below 1 is slower. The
hand-written loop has its batches on the GPU, the same precision, memory format and optimizer, and no metrics.
`of_limit` is the arithmetic of the forward and backward passes, as torch's FlopCounterMode counts it,
over the rate of the large bf16 matrix product that the row `limit` measures.
"""

import argparse
import csv
import datetime
import importlib.metadata
import json
import logging
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import litlens
from litlens.callbacks.finite_loss import FiniteLoss
from litlens.callbacks.learning_rate import LearningRate
from litlens.callbacks.random_state import RandomState
from litlens.explain.cam import cam

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SEED = 0
GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
Row = dict[str, Any]


# Callbacks, named on the command's command line as gpu.Stopwatch and gpu.KillAt.


class Stopwatch(Callback):
    """Write the seconds of every epoch, its training part, validation and drawing, to a file."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)
        self.epochs: list[dict[str, float]] = []
        self._start = self._trained = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start an epoch's watch, which ends the one before."""
        self._start = _now()
        if self.epochs:
            self.epochs[-1]["whole"] = self._start - self.epochs[-1].pop("start")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Stop the training part's watch at the last batch."""
        if trainer.is_last_batch:
            self._trained = _now()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the training part."""
        self.epochs.append({"training": self._trained - self._start, "start": self._start})

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the last epoch's watch, and write."""
        self.epochs[-1]["whole"] = _now() - self.epochs[-1].pop("start")
        self.file.write_text(json.dumps(self.epochs), encoding="utf-8")


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


class _Between(Callback):
    """Seconds from one step to another within a fit, and the synchronizations that torch notices between them."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last
        self.seconds = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.first:
            self.seconds = -_now()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == self.last - 1:
            self.seconds += _now()


# Rows


def limit(options: argparse.Namespace) -> list[Row]:
    """The card's own rates: a large bf16 matrix product, and a copy within its memory."""
    size, repeats = (256, 2) if options.quick else (8192, 20)
    a, b = (torch.randn(size, size, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    product = _median_seconds(lambda: a @ b, repeats=repeats)
    source = torch.randn(size * size * (1 if options.quick else 8), device=DEVICE)
    target = torch.empty_like(source)
    copy = _median_seconds(lambda: target.copy_(source), repeats=repeats)
    return [
        {"what": f"bf16 matrix product, {size}³", "tflops": round(2 * size**3 / product / 1e12, 1)},
        {"what": "copy on the device, read + written", "gb_per_s": round(2 * source.nbytes / copy / 1e9)},
    ]


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

    hand = _hand_epochs(_mnist_cnn(), on_the_gpu, steps=steps)
    ours, waits = _our_epochs(_mnist_cnn(), data, steps=steps)
    seconds = {"ours_s": round(ours, 4), "hand_s": round(hand, 4), "ratio": round(hand / ours, 3)}
    rates = {"images_per_s": round(size * steps / ours), "hand_images_per_s": round(size * steps / hand)}
    rates["synchronizations_per_step"] = waits
    return [
        *rows,
        {"what": f"training epoch of MnistCNN, batch {size}, not augmented, set in memory", **seconds, **rates},
    ]


def step(options: argparse.Namespace) -> list[Row]:
    """One training step, the batch on the GPU: ours with the default callbacks that act in every step."""
    cases: list[tuple[str, Callable[..., nn.Module], tuple[int, ...]]] = [
        ("MnistCNN", _mnist_cnn, (64, 1, 28, 28)),
        ("MnistCNN", _mnist_cnn, (1024, 1, 28, 28)),
        ("BottleneckCNN", litlens.BottleneckCNN, (64, 1, 90, 90)),
        ("BottleneckCNN", litlens.BottleneckCNN, (512, 1, 90, 90)),
        ("FashionMLP", litlens.FashionMLP, (128, 1, 28, 28)),
    ]
    return [
        _compare_steps(f"step of {name}, batch {shape[0]}", network, shape, options)
        for name, network, shape in (cases[:1] if options.quick else cases)
    ]


def resnet18(options: argparse.Namespace) -> list[Row]:
    """ResNet18 at 224: one step with the batch on the GPU, then from uint8 images in pinned memory."""
    from torchvision.models import resnet18 as network

    size, batch, number = (32, 8, 64) if options.quick else (224, 256, 4096)
    rows = [_compare_steps(f"step of ResNet18, batch {batch}, {size}²", network, (batch, 3, size, size), options)]
    random = np.random.default_rng(SEED)
    pixels = random.integers(0, 256, (number, size, size, 3), dtype=np.uint8)
    labels = torch.from_numpy(random.integers(0, 10, number))
    pinned = torch.from_numpy(pixels)
    pinned = pinned.pin_memory() if GPU else pinned
    mean = torch.tensor([0.485, 0.456, 0.406], device=DEVICE).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225], device=DEVICE).view(3, 1, 1)

    def from_pinned() -> Iterator[tuple[Tensor, Tensor]]:
        # Whole slices: the least that a loop has to do, a shuffle would gather rows on the host.
        for start in range(0, number, batch):
            images = pinned[start : start + batch].to(DEVICE, non_blocking=True).permute(0, 3, 1, 2)
            yield (images / 255 - mean) / std, labels[start : start + batch].to(DEVICE, non_blocking=True)

    steps = 2 if options.quick else number // batch
    hand = _hand_epochs(network(num_classes=10), from_pinned, steps=steps)
    for workers in (0,) if options.quick else (0, 8):
        data = _in_memory(pixels, labels.numpy(), batch_size=batch, workers=workers)
        ours, waits = _our_epochs(network(num_classes=10), data, steps=steps)
        rows.append(
            {"what": f"epoch of ResNet18 from uint8 in memory, batch {batch}, {workers} workers"}
            | {"ours_s": round(ours, 4), "hand_s": round(hand, 4), "ratio": round(hand / ours, 3)}
            | {"images_per_s": round(batch * steps / ours), "hand_images_per_s": round(batch * steps / hand)}
            | {"synchronizations_per_step": waits}
        )
    return rows


def grad_cam(options: argparse.Namespace) -> list[Row]:
    """Grad-CAM of 16 images by ResNet18 against the grad-cam package's batched call."""
    from pytorch_grad_cam import GradCAM
    from torchvision.models import resnet18 as network

    size, repeats = (64, 1) if options.quick else (224, 15)
    torch.manual_seed(SEED)
    model = network(num_classes=1000).eval().to(DEVICE)
    images = torch.randn(16, 3, size, size, device=DEVICE)
    layer = "layer4.1"
    with GradCAM(model, [model.get_submodule(layer)]) as package:
        theirs = package(images, None)
        package_s = _median_seconds(lambda: package(images, None), repeats=repeats)
    by_name = _median_seconds(lambda: cam(model, images, layer=layer), repeats=repeats)
    auto = _median_seconds(lambda: cam(model, images), repeats=repeats)
    maps = cam(model, images, layer=layer).maps.cpu().numpy()
    return [
        {"what": f"Grad-CAM, 16 images of {size}², ResNet18, {name}", "ours_s": round(ours, 5)}
        | {"hand_s": round(package_s, 5), "ratio": round(package_s / ours, 2)}
        | {"largest_difference": float(np.abs(maps - theirs).max())}
        for name, ours in (("layer by name", by_name), ("layer auto", auto))
    ]


def resume(options: argparse.Namespace) -> list[Row]:
    """A run of digits_cnn that is killed in its third epoch and resumed, against an uninterrupted one."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--config", str(CONFIGS / "digits_cnn.yaml"), "--trainer.max_epochs=4"]
        if GPU:
            arguments += ["--trainer.deterministic=true", "--trainer.precision=bf16-mixed"]
        kill = ["--trainer.callbacks+=gpu.KillAt", "--trainer.callbacks.step=80"]
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


def finite_loss(options: argparse.Namespace) -> list[Row]:
    """FiniteLoss on against off, and how often a step makes the host wait for the GPU."""
    batch = _random_batch((64, 1, 28, 28))
    steps = 10 if options.quick else 400
    seconds: dict[str, list[float]] = {"on": [], "off": []}
    waits = {}
    for _ in range(1 if options.quick else 3):
        for name, callbacks in (("off", []), ("on", [FiniteLoss()])):
            timed, waits[name] = _our_steps(_mnist_cnn(), batch, steps=steps, callbacks=callbacks)
            seconds[name].append(timed)
    on, off = (statistics.median(seconds[name]) for name in ("on", "off"))
    row = {"what": "step of MnistCNN, batch 64: FiniteLoss on (ours) against off (hand)", "ours_s": round(on, 6)}
    row |= {"hand_s": round(off, 6), "ratio": round(off / on, 3)}
    return [row | {"synchronizations_per_step": waits["on"], "without_it": waits["off"]}]


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


ROWS: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    "limit": limit,
    "step": step,
    "resnet18": resnet18,
    "grad_cam": grad_cam,
    "finite_loss": finite_loss,
    "resume": resume,
    "epoch": epoch,
    "evaluate": evaluate,
}


def main() -> None:
    """Measure the rows asked for, print one table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of data sets")
    parser.add_argument("--output", type=Path, default=Path("docs/gpu.json"))
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
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
    known = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {"rows": {}}
    failed = []
    for name in options.rows:
        start = time.perf_counter()
        try:
            rows = ROWS[name](options)
        except Exception:  # the rows after it are still measured
            traceback.print_exc()
            failed.append(name)
            continue
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


# Hand-written loops and ours


def _mnist_cnn(num_classes: int = 10) -> nn.Module:
    return litlens.MnistCNN(num_classes, inner_activation="relu")


def _hand_epochs(network: nn.Module, batches: Callable[[], Iterator[tuple[Tensor, Tensor]]], *, steps: int) -> float:
    """Seconds of the faster of two epochs of the usual loop, after one to warm up."""
    network.to(DEVICE, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=GPU)
    seconds = []
    for _ in range(3):
        start = _now()
        for number, (images, labels) in enumerate(batches()):
            if number == steps:
                break
            _hand_step(network, optimizer, images, labels)
        seconds.append(_now() - start)
    return min(seconds[1:])


def _hand_step(network: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        logits = network(images.contiguous(memory_format=torch.channels_last))
    loss = nn.functional.cross_entropy(logits.float(), labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def _our_epochs(network: nn.Module, data: Any, *, steps: int) -> tuple[float, float]:
    """Seconds of the faster of two epochs under a Trainer, after one to warm up; nothing is validated or drawn.

    And how often a step synchronizes, counted in a run of its own.
    """
    counted = _Synchronizations(2, 7)
    with tempfile.TemporaryDirectory() as folder:
        watch = Stopwatch(f"{folder}/epochs.json")
        trainer = _trainer(folder, [watch, *_basics()], max_epochs=3, limit_train_batches=steps)
        trainer.fit(_classifier(network, data.num_classes), datamodule=data)
        if GPU:
            trainer = _trainer(folder, [counted, *_basics()], max_epochs=1, limit_train_batches=7)
            trainer.fit(_classifier(network, data.num_classes), datamodule=data)
    return min(one["training"] for one in watch.epochs[1:]), counted.count / 5


class _Repeated:
    """The same batch again and again, as a loader."""

    def __init__(self, batch: tuple[Tensor, Tensor], number: int) -> None:
        self.batch, self.number = batch, number

    def __len__(self) -> int:
        return self.number

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter([self.batch] * self.number)


def _our_steps(
    network: nn.Module, batch: tuple[Tensor, Tensor], *, steps: int, callbacks: list[Callback]
) -> tuple[float, float]:
    """Seconds of a step under a Trainer, and how often a step synchronizes (counted in a run of its own)."""
    between = _Between(steps // 5, steps)
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(folder, [*callbacks, between], max_epochs=1)
        trainer.fit(_classifier(network, 10), train_dataloaders=_Repeated(batch, steps))
        counted = _Synchronizations(10, 30)
        if GPU:
            trainer = _trainer(folder, [*callbacks, counted], max_epochs=1)
            trainer.fit(_classifier(network, 10), train_dataloaders=_Repeated(batch, 30))
    return between.seconds / (steps - steps // 5), counted.count / 20


class _Synchronizations(Callback):
    """Count the operations between two steps for which torch made the host wait."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last
        self.count = 0
        self._caught: Any = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.first:
            self._caught = warnings.catch_warnings(record=True)
            self._seen = self._caught.__enter__()
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == self.last - 1:
            torch.cuda.set_sync_debug_mode("default")
            self._caught.__exit__(None, None, None)
            # Not the first one, which calls the mode itself a prototype.
            waits = [warning for warning in self._seen if str(warning.message).startswith("called a synchronizing")]
            self.count = len(waits)
            places = sorted({f"{Path(warning.filename).name}:{warning.lineno}" for warning in waits})
            print(f"    waits: {places}", file=sys.stderr)


def _compare_steps(
    what: str, network: Callable[..., nn.Module], shape: tuple[int, ...], options: argparse.Namespace
) -> Row:
    repeats, steps = (1, 10) if options.quick else (3, 40 if shape[-1] == 224 else 100)
    batch = _random_batch(shape)
    hand, ours, waits = [], [], 0.0
    for _ in range(repeats):  # in turn
        hand.append(_hand_epochs(network(num_classes=10), lambda: iter([batch] * steps), steps=steps) / steps)
        timed, waits = _our_steps(network(num_classes=10), batch, steps=steps, callbacks=_basics())
        ours.append(timed)
    model = network(num_classes=10).to(DEVICE)
    with FlopCounterMode(display=False) as counter:
        model(batch[0]).sum().backward()
    theirs, own = statistics.median(hand), statistics.median(ours)
    row = {"what": what, "ours_s": round(own, 6), "hand_s": round(theirs, 6), "ratio": round(theirs / own, 3)}
    row |= {"images_per_s": round(shape[0] / own), "hand_images_per_s": round(shape[0] / theirs)}
    tflops = counter.get_total_flops() / own / 1e12
    return row | {"tflops": float(f"{tflops:.3g}"), "synchronizations_per_step": waits}


def _basics() -> list[Callback]:
    """The command's default callbacks that act in every step; the others draw at the ends of epochs."""
    return [RandomState(), FiniteLoss(), LearningRate()]


def _trainer(folder: str, callbacks: list[Callback], **settings: Any) -> Trainer:
    from lightning.pytorch.loggers import CSVLogger

    return Trainer(
        accelerator="gpu" if GPU else "cpu",
        devices=1,
        precision="bf16-mixed",
        logger=CSVLogger(folder),
        callbacks=callbacks,
        default_root_dir=folder,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **settings,
    )


def _classifier(network: nn.Module, classes: int) -> Any:
    return litlens.ImageClassifier(
        network,
        [str(label) for label in range(classes)],
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-3, fused=GPU),
    )


def _in_memory(pixels: Any, labels: Any, *, batch_size: int, workers: int) -> Any:
    from litlens.data.split import ArrayImages, Split

    class InMemory(litlens.ImageDataModule):  # type: ignore[name-defined,misc]
        """Random images in memory; all three splits are the same."""

        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            self.class_names = [str(label) for label in range(10)]
            self.in_channels, self.image_size = 3, pixels.shape[1:3]

        def load(self) -> dict[str, Any]:
            names = [f"{row:05}" for row in range(len(pixels))]
            split = Split(ArrayImages(pixels), rows=np.arange(len(pixels)), labels=labels, names=names)
            return {"train": split, "val": split, "test": split}

    return InMemory(batch_size=batch_size, num_workers=workers, seed=SEED, normalize="imagenet")


def _random_batch(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Images and labels of ten classes, on the device."""
    generator = torch.Generator().manual_seed(SEED)
    labels = torch.randint(10, shape[:1], generator=generator)
    return torch.randn(shape, generator=generator).to(DEVICE), labels.to(DEVICE)


# The command


def _command_run(
    options: argparse.Namespace, *, batch: int, workers: int, epochs: int, keep: str | None = None
) -> dict[str, Any]:
    """Train mnist_cnn by the command, in this process: its epochs' seconds, test accuracy and folder."""
    from litlens.cli.main import train

    before = Path.cwd()
    sys.path.insert(0, str(Path(__file__).parent))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(keep or folder)
        try:
            arguments = ["--config", str(CONFIGS / "mnist_cnn.yaml"), f"--data.root={options.data}"]
            arguments += [f"--data.batch_size={batch}", f"--data.num_workers={workers}"]
            arguments += [f"--trainer.max_epochs={epochs}", "--trainer.enable_progress_bar=false"]
            if options.quick:
                arguments += ["--trainer.limit_train_batches=3", "--trainer.limit_val_batches=2"]
                arguments += ["--trainer.limit_test_batches=2", "--trainer.precision=32-true"]
            arguments += ["--trainer.callbacks+=gpu.Stopwatch", "--trainer.callbacks.file=epochs.json"]
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
    paths = [str(Path(__file__).parent), *sys.path]
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


# Time and tables


def _now() -> float:
    if GPU:
        torch.cuda.synchronize()
    return time.perf_counter()


def _median_seconds(run: Callable[[], object], *, repeats: int) -> float:
    seconds = []
    for repeat in range(repeats + 3):
        start = _now()
        run()
        if repeat >= 3 or repeats == 1:
            seconds.append(_now() - start)
    return statistics.median(seconds)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


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
