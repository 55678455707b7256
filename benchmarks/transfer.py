"""Measure what cached features save, and whether they change the result: docs/transfer.json.

    python benchmarks/transfer.py --data ../data --weights ../weights            about half an hour on two cores
    python benchmarks/transfer.py --data ../data --weights ../weights --quick    a minute; prints and writes nothing

13 epochs of a head on a frozen VGG16 over the 385 images of catanddog, training and validation, with features and
without, in the same order and unaugmented, against one pass of the base over the same images. Then the memory of
maps far below the head (SqueezeNet from its fourth layer), in memory and in a mapped file. Every measurement
is a separate process; seconds are those of the fit alone, with decoded images in the cache.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from litlens import FolderDataModule, TransferClassifier, TransferNetwork  # noqa: E402
from litlens.checkpoints.provenance import hardware, versions  # noqa: E402
from litlens.models.backbones import FrozenLayers  # noqa: E402

JSON = ROOT / "docs" / "transfer.json"
HEAD = {"strategy": "frozen"}
MAPS = {"strategy": "partial", "train_from": "features.3", "cache_features": True}
MEASUREMENTS = ("pass", "uncached", "cached", "again", "maps_in_memory", "maps_mapped")


def main() -> None:
    """Measure one after the other, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "data", help="the folder of data sets")
    parser.add_argument("--weights", type=Path, default=ROOT / "weights", help="the folder of weights")
    parser.add_argument("--quick", action="store_true", help="MobileNetV2 at 96x96, 3 epochs; write nothing")
    parser.add_argument("--measure", choices=MEASUREMENTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print("\n" + json.dumps(measure(options)))
        return
    with tempfile.TemporaryDirectory() as cache:
        results = {name: _in_a_process(name, cache=cache) for name in MEASUREMENTS}
        heads = [torch.load(Path(cache) / f"{name}.pt", weights_only=True) for name in ("cached", "uncached")]
    difference = max(float((heads[0][name] - heads[1][name]).abs().max()) for name in heads[0])
    summary = {
        "epochs": 3 if options.quick else 13,
        "cached_over_pass": round(results["cached"]["seconds"] / results["pass"]["seconds"], 2),
        "uncached_over_pass": round(results["uncached"]["seconds"] / results["pass"]["seconds"], 2),
        "again_over_pass": round(results["again"]["seconds"] / results["pass"]["seconds"], 3),
        "largest_difference_of_head_weights": difference,
        "largest_head_weight": max(float(value.abs().max()) for value in heads[0].values()),
    }
    cpu = torch.device("cpu")
    about = {"date": date.today().isoformat(), "hardware": hardware(cpu), "versions": versions(), "seed": 42}
    text = json.dumps({**summary, "measurements": results, **about}, indent=2) + "\n"
    print(text)
    if not options.quick:
        JSON.parent.mkdir(exist_ok=True)
        JSON.write_text(text)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """One measurement in this process."""
    name, maps = options.measure, options.measure.startswith("maps")
    seed_everything(42, verbose=False)
    size = 96 if options.quick else 224
    data = FolderDataModule(
        options.data / "catanddog", image_size=size, resize_mode="squash", normalize="imagenet", batch_size=32, seed=42
    )
    data.setup()
    data.fingerprint()
    backbone, file = ("mobilenet_v2", "mobilenet_v2_imagenet_features.pth")
    if maps:
        backbone, file = ("squeezenet1_1", "squeezenet1_1_imagenet.pth")
    elif not options.quick:
        backbone, file = ("vgg16", "vgg16_imagenet_features.pth")
    weights = str(options.weights / file)
    network = TransferNetwork(image_size=(size, size), backbone=backbone, weights=weights, head=[256], dropout=0.5)
    strategy: dict[str, Any] = MAPS if maps else {**HEAD, "cache_features": name != "uncached"}
    optimizer = partial(torch.optim.AdamW, lr=0.001)
    memory = 0.0 if name == "maps_mapped" else 2.0
    model = TransferClassifier(network, data.class_names, optimizer=optimizer, feature_memory=memory, **strategy)
    epochs = 1 if maps else 3 if options.quick else 13
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    peak = _PeakMemory()
    start = time.perf_counter()
    if name == "pass":
        part = FrozenLayers(network, len(network.layer_names))
        for split in ("train", "val"):
            members = data.samples(split)
            for first in range(0, len(members), 16):
                pixels = members.images.batch(members.rows[first : first + 16])
                part(data.preprocessing.normalize(pixels))
    else:
        trainer.fit(model, datamodule=data)
    seconds = time.perf_counter() - start
    cache = Path(os.environ["LITLENS_CACHE"])
    torch.save(dict(network.head.state_dict()), cache / f"{name}.pt")
    kept = sum(path.stat().st_size for path in cache.glob("features-*.npy"))
    return {
        "backbone": backbone,
        "images": len(data.samples("train")) + len(data.samples("val")),
        "seconds": round(seconds, 2),
        "peak_memory_mb": peak.stop(),
        "kept_on_disk_mb": round(kept / 1e6, 1),
    }


class _PeakMemory:
    """The most memory of the process's own, in MB, sampled; pages of mapped files, which can be dropped, not among it.

    None where the system does not tell (it is Linux that does).
    """

    def __init__(self) -> None:
        self._peak, self._done = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int | None:
        self._done.set()
        self._thread.join()
        return self._peak // 1000 or None

    def _watch(self) -> None:
        status = Path("/proc/self/status")
        while status.exists() and not self._done.wait(0.02):
            line = next(line for line in status.read_text().splitlines() if line.startswith("RssAnon"))
            self._peak = max(self._peak, int(line.split()[1]))


def _in_a_process(name: str, *, cache: str) -> dict[str, Any]:
    print(name, file=sys.stderr, flush=True)
    if name.startswith("maps"):  # each computes its own
        for path in Path(cache).glob("features-*.npy"):
            path.unlink()
    command = [sys.executable, *sys.argv, "--measure", name]
    environment = {**os.environ, "LITLENS_CACHE": cache}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    measured: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return measured


if __name__ == "__main__":
    main()
