"""Training steps and epochs: under a Trainer with the callbacks that act in every step, and hand-written."""

import argparse
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from on_gpu.timing import DEVICE, GPU, SEED, Row, Stopwatch, median_seconds, now
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import litlens
from litlens.callbacks.finite_loss import FiniteLoss
from litlens.callbacks.learning_rate import LearningRate
from litlens.callbacks.random_state import RandomState
from litlens.explain.cam import cam

Batch = tuple[Tensor, Tensor]

# Rows


def limit(options: argparse.Namespace) -> list[Row]:
    """The card's own rates: a large bf16 matrix product, and a copy within its memory."""
    size, repeats = (256, 2) if options.quick else (8192, 20)
    a, b = (torch.randn(size, size, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    product = median_seconds(lambda: a @ b, repeats=repeats)
    source = torch.randn(size * size * (1 if options.quick else 8), device=DEVICE)
    target = torch.empty_like(source)
    copy = median_seconds(lambda: target.copy_(source), repeats=repeats)
    return [
        {"what": f"bf16 matrix product, {size}³", "tflops": round(2 * size**3 / product / 1e12, 1)},
        {"what": "copy on the device, read + written", "gb_per_s": round(2 * source.nbytes / copy / 1e9)},
    ]


def small_steps(options: argparse.Namespace) -> list[Row]:
    """One training step of small networks, the batch on the GPU: ours with the callbacks that act in every step."""
    cases: list[tuple[str, Callable[..., nn.Module], tuple[int, ...]]] = [
        ("FashionMLP", litlens.FashionMLP, (128, 1, 28, 28)),
        ("MnistCNN", mnist_cnn, (64, 1, 28, 28)),
        ("BottleneckCNN", litlens.BottleneckCNN, (64, 1, 90, 90)),
    ]
    return [
        _compare_steps(f"step of {name}, batch {shape[0]}", network, shape, options)
        for name, network, shape in (cases[:1] if options.quick else cases)
    ]


def large_steps(options: argparse.Namespace) -> list[Row]:
    """The same in large batches."""
    cases = [("MnistCNN", mnist_cnn, (1024, 1, 28, 28)), ("BottleneckCNN", litlens.BottleneckCNN, (512, 1, 90, 90))]
    return [
        _compare_steps(f"step of {name}, batch {shape[0]}", network, shape, options)
        for name, network, shape in (cases[:0] if options.quick else cases)
    ]


def compiled(options: argparse.Namespace) -> list[Row]:
    """The small networks' step with `torch_compile: {mode: reduce-overhead}` (hand: eager)."""
    backend = {"backend": "eager"} if options.quick else {"mode": "reduce-overhead"}
    cases = [("FashionMLP", litlens.FashionMLP, (128, 1, 28, 28)), ("MnistCNN", mnist_cnn, (64, 1, 28, 28))]
    return [
        _compare_steps(f"step of {name}, batch {shape[0]}, compiled", network, shape, options, torch_compile=backend)
        for name, network, shape in cases[: 1 if options.quick else 2]
    ]


def held(options: argparse.Namespace) -> list[Row]:
    """An epoch of MnistCNN with the set held on the GPU, not augmented; the hand loop has it there normalized."""
    rows = []
    for batch in (64,) if options.quick else (512, 64):
        data = litlens.MNISTDataModule(options.data, batch_size=batch, seed=SEED)
        data.prepare_data()
        data.setup("fit")
        steps = 3 if options.quick else min(len(data.train_dataloader()), 300)
        whole = [torch.cat(parts) for parts in zip(*data.train_dataloader(), strict=True)]
        images, labels = whole[0].to(DEVICE), whole[1].to(DEVICE)

        def on_the_gpu(images: Tensor = images, labels: Tensor = labels, size: int = batch) -> Iterator[Batch]:
            for indices in torch.randperm(len(images), device=DEVICE).split(size):
                yield images[indices], labels[indices]

        what = f"{steps} steps of MnistCNN, batch {batch}, not augmented, set held on the GPU"
        rows.append(_compare_epochs(what, mnist_cnn, on_the_gpu, data, steps=steps))
    return rows


def resnet18(options: argparse.Namespace) -> list[Row]:
    """ResNet18 at 224: one step with the batch on the GPU, then from uint8 images in pinned memory."""
    from torchvision.models import resnet18 as network

    size, batch, number = (32, 8, 64) if options.quick else (224, 256, 4096)
    random = np.random.default_rng(SEED)
    pixels = random.integers(0, 256, (number, size, size, 3), dtype=np.uint8)
    labels = torch.from_numpy(random.integers(0, 10, number))
    pinned = torch.from_numpy(pixels)
    pinned = pinned.pin_memory() if GPU else pinned
    mean = torch.tensor([0.485, 0.456, 0.406], device=DEVICE).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225], device=DEVICE).view(3, 1, 1)

    def from_pinned() -> Iterator[Batch]:
        # Whole slices: the least that a loop has to do, a shuffle would gather rows on the host.
        for start in range(0, number, batch):
            images = pinned[start : start + batch].to(DEVICE, non_blocking=True).permute(0, 3, 1, 2)
            yield (images / 255 - mean) / std, labels[start : start + batch].to(DEVICE, non_blocking=True)

    rows, hand = [], 0.0
    for name, on_device in (("in memory, without workers", False), ("held on the GPU", True)):
        data = in_memory(pixels, labels.numpy(), batch_size=batch, on_device=on_device, num_workers=0)
        what = f"epoch of ResNet18, batch {batch}, {size}², uint8 {name} (hand: in pinned memory, in order)"
        rows.append(_compare_epochs(what, network, from_pinned, data, steps=number // batch, hand=hand))
        hand = rows[0]["hand_s"]
    return [
        *rows,
        _compare_steps(f"step of ResNet18, batch {batch}, {size}²", network, (batch, 3, size, size), options),
    ]


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
        package_s = median_seconds(lambda: package(images, None), repeats=repeats)
    by_name = median_seconds(lambda: cam(model, images, layer=layer), repeats=repeats)
    auto = median_seconds(lambda: cam(model, images), repeats=repeats)
    maps = cam(model, images, layer=layer).maps.cpu().numpy()
    return [
        {"what": f"Grad-CAM, 16 images of {size}², ResNet18, {name}", "ours_s": round(ours, 5)}
        | {"hand_s": round(package_s, 5), "ratio": round(package_s / ours, 2)}
        | {"largest_difference": float(np.abs(maps - theirs).max())}
        for name, ours in (("layer by name", by_name), ("layer auto", auto))
    ]


def finite_loss(options: argparse.Namespace) -> list[Row]:
    """FiniteLoss on against off, and how often a step makes the host wait for the GPU."""
    batch = _random_batch((64, 1, 28, 28))
    steps = 10 if options.quick else 400
    seconds: dict[str, list[float]] = {"on": [], "off": []}
    waits = {}
    for _ in range(1 if options.quick else 3):
        for name, callbacks in (("off", []), ("on", [FiniteLoss()])):
            timed, waits[name] = _our_steps(mnist_cnn(), batch, steps=steps, callbacks=callbacks)
            seconds[name].append(timed)
    on, off = (statistics.median(seconds[name]) for name in ("on", "off"))
    row = {"what": "step of MnistCNN, batch 64: FiniteLoss on (ours) against off (hand)", "ours_s": round(on, 6)}
    row |= {"hand_s": round(off, 6), "ratio": round(off / on, 3)}
    return [row | {"synchronizations_per_step": waits["on"], "without_it": waits["off"]}]


# Hand-written loops and ours


def mnist_cnn(num_classes: int = 10) -> nn.Module:
    """The network of configs/mnist_cnn.yaml."""
    return litlens.MnistCNN(num_classes, inner_activation="relu")


def _compare_epochs(
    what: str,
    network: Callable[..., nn.Module],
    batches: Callable[[], Iterator[Batch]],
    data: Any,
    *,
    steps: int,
    hand: float = 0.0,
) -> Row:
    hand = hand or hand_epochs(network(num_classes=10), batches, steps=steps)
    ours, waits = our_epochs(network(num_classes=10), data, steps=steps)
    row = {"what": what, "ours_s": round(ours, 4), "hand_s": round(hand, 4), "ratio": round(hand / ours, 3)}
    size = data.batch_size
    row |= {"images_per_s": round(size * steps / ours), "hand_images_per_s": round(size * steps / hand)}
    tflops = _flops(network, next(batches())[0]) * steps / ours / 1e12
    return row | {"tflops": float(f"{tflops:.3g}"), "synchronizations_per_step": waits}


def _flops(network: Callable[..., nn.Module], images: Tensor) -> int:
    """Of the forward and the backward pass."""
    model = network(num_classes=10).to(DEVICE)
    with FlopCounterMode(display=False) as counter:
        model(images).sum().backward()
    return int(counter.get_total_flops())


def _compare_steps(
    what: str,
    network: Callable[..., nn.Module],
    shape: tuple[int, ...],
    options: argparse.Namespace,
    **ours_alone: Any,
) -> Row:
    repeats, steps = (1, 10) if options.quick else (3, 40 if shape[-1] == 224 else 100)
    batch = _random_batch(shape)
    hand, ours, waits = [], [], 0.0
    for _ in range(repeats):  # in turn
        hand.append(hand_epochs(network(num_classes=10), lambda: iter([batch] * steps), steps=steps) / steps)
        made = network(num_classes=10)
        timed, waits = _our_steps(made, batch, steps=steps, callbacks=_basics(), **ours_alone)
        ours.append(timed)
    theirs, own = statistics.median(hand), statistics.median(ours)
    row = {"what": what, "ours_s": round(own, 6), "hand_s": round(theirs, 6), "ratio": round(theirs / own, 3)}
    row |= {"images_per_s": round(shape[0] / own), "hand_images_per_s": round(shape[0] / theirs)}
    tflops = _flops(network, batch[0]) / own / 1e12
    return row | {"tflops": float(f"{tflops:.3g}"), "synchronizations_per_step": waits}


def hand_epochs(network: nn.Module, batches: Callable[[], Iterator[Batch]], *, steps: int) -> float:
    """Seconds of the faster of two epochs of the usual loop, after one to warm up."""
    network.to(DEVICE, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=GPU)
    seconds = []
    for _ in range(3):
        start = now()
        for number, (images, labels) in enumerate(batches()):
            if number == steps:
                break
            _hand_step(network, optimizer, images, labels)
        seconds.append(now() - start)
    return min(seconds[1:])


def _hand_step(network: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        logits = network(images.contiguous(memory_format=torch.channels_last))
    loss = nn.functional.cross_entropy(logits.float(), labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def our_epochs(network: nn.Module, data: Any, *, steps: int) -> tuple[float, float]:
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


def _our_steps(
    network: nn.Module, batch: Batch, *, steps: int, callbacks: list[Callback], **settings: Any
) -> tuple[float, float]:
    """Seconds of a step under a Trainer, and how often a step synchronizes (counted in a run of its own)."""
    between = _Between(steps // 5, steps)
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(folder, [*callbacks, between], max_epochs=1)
        trainer.fit(_classifier(network, 10, **settings), train_dataloaders=_Repeated(batch, steps))
        counted = _Synchronizations(10, 30)
        if GPU and not settings:
            trainer = _trainer(folder, [*callbacks, counted], max_epochs=1)
            trainer.fit(_classifier(network, 10), train_dataloaders=_Repeated(batch, 30))
    return between.seconds / (steps - steps // 5), counted.count / 20


class _Between(Callback):
    """Seconds from one step to another within a fit, and the synchronizations that torch notices between them."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last
        self.seconds = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.first:
            self.seconds = -now()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == self.last - 1:
            self.seconds += now()


class _Repeated:
    """The same batch again and again, as a loader."""

    def __init__(self, batch: Batch, number: int) -> None:
        self.batch, self.number = batch, number

    def __len__(self) -> int:
        return self.number

    def __iter__(self) -> Iterator[Batch]:
        return iter([self.batch] * self.number)


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


def _classifier(network: nn.Module, classes: int, **settings: Any) -> Any:
    return litlens.ImageClassifier(
        network,
        [str(label) for label in range(classes)],
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-3, fused=GPU),
        **settings,
    )


def in_memory(pixels: Any, labels: Any, **options: Any) -> Any:
    """A data module of uint8 images (N, H, W, 3) and labels in memory."""
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

    return InMemory(seed=SEED, normalize="imagenet", **options)


def _random_batch(shape: tuple[int, ...]) -> Batch:
    """Images and labels of ten classes, on the device."""
    generator = torch.Generator().manual_seed(SEED)
    labels = torch.randint(10, shape[:1], generator=generator)
    return torch.randn(shape, generator=generator).to(DEVICE), labels.to(DEVICE)
