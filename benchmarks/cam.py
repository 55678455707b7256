"""Measure the speed of Grad-CAM, against the grad-cam package and one plain forward, and how faithful each method is.

    python benchmarks/cam.py --weights SQUEEZENET1_1.pth --images FOLDER      # writes docs/cam.json
    python benchmarks/cam.py --quick                                          # a test: writes nothing

Speed: ResNet18 with random weights (no time depends on them), 16 images of 224×224, the contestants in
turn. Faithfulness: SqueezeNet 1.1 with ImageNet weights, images from FOLDER and below, for the predicted
class.
"""

import argparse
import datetime
import importlib.metadata
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from faithfulness import Faithfulness, faithfulness, random_maps
from pytorch_grad_cam import GradCAM
from torch import Tensor
from torchvision.models import resnet18, squeezenet1_1

from litlens.constants import NORMALIZATIONS
from litlens.data.decode import read_image
from litlens.data.preprocessing import Normalize, Preprocessing, Resize
from litlens.explain.cam import METHODS, cam

SEED, THREADS, BATCH, SIZE = 0, 2, 16, 224
FAITHFUL_LAYER = "features.12"  # 512 maps of 13×13; the layer after it has a map per class already
RANDOM_MAPS = 5


def main() -> None:
    """Measure, print, and write the results to `--output`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="state dict of torchvision's squeezenet1_1")
    parser.add_argument("--images", type=Path, help="a folder of images")
    parser.add_argument("--number", type=int, default=32, help="number of images, evenly spread over the folder")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--methods", nargs="+", default=[name for name in METHODS if name != "randomcam"])
    parser.add_argument("--output", type=Path, default=Path("docs/cam.json"))
    parser.add_argument("--quick", action="store_true", help="a short test; writes nothing")
    options = parser.parse_args()
    if options.quick:
        options.repeats, options.number, options.methods = 1, 2, ["gradcam", "layercam"]
    torch.set_num_threads(THREADS)
    torch.manual_seed(SEED)
    figures: dict[str, Any] = {
        "script": "benchmarks/cam.py",
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "seed": SEED,
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in ("torch", "torchvision", "grad-cam", "numpy")},
        "hardware": _hardware(),
        "speed": speed(
            repeats=options.repeats, batch=2 if options.quick else BATCH, size=64 if options.quick else SIZE
        ),
    }
    if options.weights and options.images:
        figures["faithfulness"] = faithful(
            options.weights,
            _spread(options.images, options.number),
            options.methods,
            steps=4 if options.quick else 50,
        )
    text = json.dumps(figures, indent=2, ensure_ascii=False) + "\n"
    print(text, end="")
    if not options.quick:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text, encoding="utf-8")


def speed(*, repeats: int, batch: int, size: int, channels_last: bool = False) -> dict[str, Any]:
    """Seconds of each contestant (median), and medians of the ratios within a repeat; both have the same images."""
    network = resnet18(num_classes=1000).eval()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    images = torch.randn(batch, 3, size, size).contiguous(memory_format=layout)
    layer = "layer4.1"
    package = GradCAM(network, [network.get_submodule(layer)])

    def forward() -> None:
        with torch.no_grad():
            network(images)

    contestants: dict[str, Callable[[], object]] = {
        "forward": forward,
        "ours": lambda: cam(network, images, layer=layer),
        "ours_layer_auto": lambda: cam(network, images),
        "package": lambda: package(images, None),
    }
    difference = np.abs(cam(network, images, layer=layer).maps.numpy() - package(images, None)).max()
    # Its hooks would copy the maps for the other contestants too: they are registered only while it runs.
    package.activations_and_grads.release()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for repeat in range(repeats + 1):
        for name, run in contestants.items():
            if name == "package":
                package = GradCAM(network, [network.get_submodule(layer)])
            start = time.perf_counter()
            run()
            elapsed = time.perf_counter() - start
            if name == "package":
                package.activations_and_grads.release()
            if repeat:  # the first is to warm up
                seconds[name].append(elapsed)

    def ratio(slower: str, faster: str) -> float:
        return round(statistics.median(a / b for a, b in zip(seconds[slower], seconds[faster], strict=True)), 3)

    return {
        "setting": f"ResNet18 {layer}, {batch} × {size}×{size}, {THREADS} threads, {repeats} repeats in turn",
        "largest_difference_to_package": float(difference),
        "package_over_ours": ratio("package", "ours"),
        "ours_over_forward": ratio("ours", "forward"),
        "package_over_ours_layer_auto": ratio("package", "ours_layer_auto"),
        "ours_layer_auto_over_forward": ratio("ours_layer_auto", "forward"),
        "median_seconds": {name: round(statistics.median(values), 4) for name, values in seconds.items()},
    }


def faithful(weights: Path, files: list[Path], methods: list[str], *, steps: int) -> dict[str, Any]:
    """Areas under the deletion and insertion curves of each method, and how much better than random."""
    network = squeezenet1_1()
    state = torch.load(weights, weights_only=True, map_location="cpu")
    network.load_state_dict({name: value.float() for name, value in state.items()})
    network.eval()
    images = _load(files)
    result = cam(network, images, layer=FAITHFUL_LAYER)
    by_chance = [
        _areas(
            faithfulness(network, images, random_maps((len(images), SIZE, SIZE), seed=seed), result.predicted, steps)
        )
        for seed in range(RANDOM_MAPS)
    ]
    random = {curve: torch.stack([areas[curve] for areas in by_chance]).mean(0) for curve in ("deletion", "insertion")}
    table = {"random map": {curve: round(areas.mean().item(), 4) for curve, areas in random.items()}}
    for method in methods:
        maps = cam(network, images, target=result.predicted, layer=FAITHFUL_LAYER, method=method).maps
        areas = _areas(faithfulness(network, images, maps, result.predicted, steps))
        table[method] = {}
        for curve, better in (("deletion", -1), ("insertion", 1)):
            gain = better * (areas[curve] - random[curve])
            table[method] |= {
                curve: round(areas[curve].mean().item(), 4),
                f"{curve}_better_than_random_by": round(gain.mean().item(), 4),
                f"{curve}_standard_error": round(gain.std().item() / len(gain) ** 0.5, 4),
            }
        print(method, table[method], flush=True)
    return {
        "setting": f"SqueezeNet 1.1, {FAITHFUL_LAYER}, {len(images)} images, class predicted, {steps} steps, "
        f"mean of {RANDOM_MAPS} random maps of 7×7; deletion: lower is better, insertion: higher",
        "areas": table,
    }


def _areas(curves: Faithfulness) -> dict[str, Tensor]:
    return {"deletion": curves.deletion_area, "insertion": curves.insertion_area}


def _spread(folder: Path, number: int) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
    return [files[place] for place in np.linspace(0, len(files) - 1, min(number, len(files))).astype(int)]


def _load(files: list[Path]) -> Tensor:
    mean, std = NORMALIZATIONS["imagenet"]
    preprocessing = Preprocessing(Resize((SIZE, SIZE)), Normalize(mean, std))
    return preprocessing.normalize(np.stack([preprocessing.resize(read_image(file, channels=3)) for file in files]))


def _hardware() -> str:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    return f"{model}, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    main()
