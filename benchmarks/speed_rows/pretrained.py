"""Transfer learning, Grad-CAM and the callbacks that draw, by the scripts that measure each of them in detail."""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import tempfile
from functools import partial
from pathlib import Path
from unittest import mock

import callbacks as drawing
import torch
import transfer
from on_gpu.timing import DEVICE, now
from speed_rows.commands import ROOT, TRAIN, python
from speed_rows.row import Row, Skipped, row, take_turns

import litlens

BENCHMARKS = ROOT / "benchmarks"


def frozen_vgg16(options: argparse.Namespace) -> list[Row]:
    """13 epochs of a head on a frozen VGG16, with its features computed once and without, once each."""
    _needs(options.data / "catanddog", options.weights / "vgg16_imagenet_features.pth")
    seconds = {}
    with tempfile.TemporaryDirectory() as cache, mock.patch.dict(os.environ, {"LITLENS_CACHE": cache}):
        for name in ("cached", "uncached"):
            task = argparse.Namespace(data=options.data, weights=options.weights, quick=options.quick, measure=name)
            seconds[name] = transfer.measure(task)["seconds"]
    what = "13 epochs of a head on a frozen VGG16, 385 images, K = 1, against the same without cached features"
    return [row(what, [seconds["cached"]], [seconds["uncached"]], at_least=13)]


def fastai_epoch(options: argparse.Namespace) -> list[Row]:
    """The whole run of catdog2k_mobilenet_frozen, from an empty cache to the page, against one epoch of fastai."""
    weights = options.weights / "mobilenet_v2_imagenet_features.pth"
    _needs(options.data / "catdog_2k", weights)
    if options.fastai is None:
        raise Skipped("--fastai names no Python that has fastai")
    with tempfile.TemporaryDirectory() as folder:
        config = [
            f"--config={ROOT / 'configs' / 'catdog2k_mobilenet_frozen.yaml'}",
            f"--model.network.weights={weights}",
        ]
        start = now()
        python(options, Path(folder), [TRAIN, *config, f"--data.folder={options.data / 'catdog_2k'}"])
        ours = now() - start
        (splits,) = Path(folder).glob("runs/*/*/splits.csv")
        task = {"folder": str(options.data / "catdog_2k"), "weights": str(weights), "splits": str(splits), "side": 224}
        code = "import json, sys, default_recipe as d; print(); print(d.frozen_epoch(**json.loads(sys.argv[1])))"
        environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS), "OMP_NUM_THREADS": str(options.threads)}
        command = [str(options.fastai), "-c", code, json.dumps({**task, "seed": 42})]
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    theirs = float(done.stdout.split()[-1])
    what = "a whole run on 2,000 images, frozen MobileNetV2, 30 epochs, page included, against one epoch of fastai's"
    return [row(what, [ours], [theirs], at_least=1)]


def features(options: argparse.Namespace) -> list[Row]:
    """The features of the validation split, computed and written, against forward passes alone in the best layout."""
    backbone, size = ("mobilenet_v2", 32) if options.quick else ("vgg16", 224)
    weights = options.weights / f"{backbone}_imagenet_features.pth"
    _needs(options.data / "catanddog", weights)
    with tempfile.TemporaryDirectory() as cache, mock.patch.dict(os.environ, {"LITLENS_CACHE": cache}):
        folder = options.data / "catanddog"
        data = litlens.FolderDataModule(folder, image_size=size, resize_mode="squash", normalize="imagenet")
        data.setup()
        network = litlens.TransferNetwork(2, image_size=(size, size), backbone=backbone, weights=str(weights))
        classifier = litlens.TransferClassifier(network, data.class_names).to(DEVICE)
        split = data.samples("val")
        pixels = split.images.batch(split.rows)
        images = data.preprocessing.normalize(pixels).to(DEVICE)

        def ours() -> None:
            with tempfile.TemporaryDirectory() as empty, mock.patch.dict(os.environ, {"LITLENS_CACHE": empty}):
                data.cache_features(classifier.frozen_layers, views=1, memory=1.0)
                next(iter(data.val_dataloader()))

        def forward(memory_format: torch.memory_format) -> None:
            with torch.inference_mode():
                for batch in images.split(32):
                    network.up_to(len(network.layer_names), batch.contiguous(memory_format=memory_format))

        network.eval()
        formats = (torch.contiguous_format, torch.channels_last)
        sides = (ours, *(partial(forward, one) for one in formats))
        own, *theirs = take_turns(*sides, repeats=1 if options.quick else 3)
    what = f"features of {len(images)} images by VGG16, computed and written, against forward passes alone, batch 32"
    return [row(f"{what}, inference_mode, best layout", own, min(theirs, key=statistics.median), at_most=1.1)]


def grad_cam(options: argparse.Namespace) -> list[Row]:
    """Grad-CAM of 16 images by ResNet18, the layer by name and found, against grad-cam's batched call."""
    if importlib.util.find_spec("pytorch_grad_cam") is None:
        raise Skipped("grad-cam is not installed")
    import cam

    repeats, batch, size = (1, 2, 64) if options.quick else (15, 16, 224)
    rows = []
    for channels_last, images in ((True, "channels last, as a data module gives them"), (False, "contiguous")):
        found = cam.speed(repeats=repeats, batch=batch, size=size, channels_last=channels_last)
        seconds = found["median_seconds"]
        for layer, ours, ratio in (
            ("by name", "ours", "package_over_ours"),
            ("auto", "ours_layer_auto", "package_over_ours_layer_auto"),
        ):
            what = f"Grad-CAM, batch 16, ResNet18, layer {layer}, images {images}, against grad-cam"
            rows.append(Row(what, seconds[ours], seconds["package"], found[ratio], "at least 2.6", repeats))
    return rows


def callbacks(options: argparse.Namespace) -> list[Row]:
    """An epoch of mnist_cnn and its validation with every callback that draws, against none of them."""
    rounds, limit = (1, 1) if options.quick else (3, None)
    found = drawing.measure(options.data, epochs=1, limit=limit, rounds=rounds)
    seconds = found["seconds_per_epoch"]
    what = "an epoch of mnist_cnn, validated and drawn by every callback, against none that draws"
    return [Row(what, seconds["with"], seconds["without"], found["ratio"], "at most 1.02", rounds)]


def _needs(*paths: Path) -> None:
    if missing := next((path for path in paths if not path.exists()), None):
        raise Skipped(f"{missing} does not exist")
