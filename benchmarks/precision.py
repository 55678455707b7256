"""Measure the cost of bf16 autocast on this processor: a training step in bf16 and in float32, alternately.

    python benchmarks/precision.py             # writes docs/precision.json
    python benchmarks/precision.py --quick     # a test: writes nothing

Where the processor has no bf16, training takes float32 instead (src/litlens/cli/checks.py).
"""

import argparse
import datetime
import importlib.metadata
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from litlens.checkpoints.provenance import hardware
from litlens.cli.checks import cpu_has_bf16
from litlens.models.networks.scratch import BottleneckCNN, CatDogCNN, MnistCNN

THREADS = 2
# Network, shape of one image, batch size: as the shipped configs have them.
STEPS = [
    (MnistCNN, (1, 28, 28), 64),
    (BottleneckCNN, (1, 90, 90), 64),
    (CatDogCNN, (3, 64, 64), 32),
]


def main() -> None:
    """Measure, print, and write the results to `--output`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/precision.json"))
    parser.add_argument("--quick", action="store_true", help="one small step; writes nothing")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    figures: dict[str, Any] = {
        "script": "benchmarks/precision.py",
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "versions": {"python": platform.python_version(), "torch": importlib.metadata.version("torch")},
        "hardware": hardware(torch.device("cpu")),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "has_bf16": cpu_has_bf16(),
        "milliseconds_a_step": {
            network.__name__: measure(
                network(image_size=shape[1:]),
                torch.rand(2 if options.quick else size, *shape),
                1 if options.quick else 2,
            )
            for network, shape, size in STEPS
        },
    }
    print(json.dumps(figures, indent=2))
    if not options.quick:
        options.output.write_text(json.dumps(figures, indent=2) + "\n")


def measure(network: nn.Module, images: Tensor, rounds: int) -> dict[str, float]:
    """Medians over the rounds of forward and backward, channels last as in training; the first round is warm-up."""
    network, images = network.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
    targets = torch.zeros(len(images), dtype=torch.long)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(rounds + 1):
        for bf16, taken in seconds.items():
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = nn.functional.cross_entropy(network(images), targets)
            loss.backward()
            taken.append(time.perf_counter() - start)
    float32, bf16 = (statistics.median(taken[1:]) for taken in seconds.values())
    return {
        "float32": round(float32 * 1000, 1),
        "bf16": round(bf16 * 1000, 1),
        "bf16/float32": round(bf16 / float32, 2),
    }


if __name__ == "__main__":
    main()
