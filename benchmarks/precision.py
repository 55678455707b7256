"""Measure what precision and memory format cost on this processor: training steps of the scratch CNNs, in turn.

    python benchmarks/precision.py             # writes docs/precision.json
    python benchmarks/precision.py --quick     # a test: writes nothing

Each network trains in float32 and contiguous, and in each other setting; a ratio is the seconds of the first over those
of the setting: 2 is twice as fast. 16-mixed is bf16-mixed on a processor, as in Lightning; `float16` is torch's
autocast to float16, which Lightning does not use there. `without bf16` is the same in a process whose oneDNN uses AVX2
alone, so that bf16 is emulated: training then takes float32 instead (src/litlens/cli/checks.py).
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
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
SETTINGS: dict[str, tuple[torch.dtype, torch.memory_format]] = {
    "float32": (torch.float32, torch.contiguous_format),
    "float32 channels_last": (torch.float32, torch.channels_last),
    "bf16": (torch.bfloat16, torch.contiguous_format),
    "bf16 channels_last": (torch.bfloat16, torch.channels_last),
    "float16 channels_last": (torch.float16, torch.channels_last),
}


def main() -> None:
    """Measure, print, and write the results to `--output`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/precision.json"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="float32 is always one")
    parser.add_argument("--only-steps", action="store_true", help="print the steps alone, in this process")
    parser.add_argument("--quick", action="store_true", help="one small step; writes nothing")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    steps = {
        network.__name__: measure(
            network(image_size=shape[1:]),
            torch.rand(2 if options.quick else size, *shape),
            settings=["float32", *(name for name in options.settings if name != "float32")],
            rounds=1 if options.quick else options.rounds,
        )
        for network, shape, size in STEPS
    }
    if options.only_steps:
        print(json.dumps(steps))
        return
    figures: dict[str, Any] = {
        "script": "benchmarks/precision.py",
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "versions": {"python": platform.python_version(), "torch": importlib.metadata.version("torch")},
        "hardware": hardware(torch.device("cpu")),
        "threads": THREADS,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "has_bf16": cpu_has_bf16(),
        "steps": steps,
        "without bf16": without_bf16(quick=options.quick),
    }
    print(json.dumps(figures, indent=2))
    if not options.quick:
        options.output.write_text(json.dumps(figures, indent=2) + "\n")


def without_bf16(*, quick: bool) -> dict[str, Any]:
    """The steps in float32 and bf16, channels last, in a process that uses AVX2 alone."""
    command = [sys.executable, __file__, "--only-steps", "--rounds=2"]
    command += ["--settings", "float32 channels_last", "bf16 channels_last", *["--quick"] * quick]
    slow = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    steps: dict[str, Any] = json.loads(subprocess.run(command, env=slow, check=True, capture_output=True).stdout)
    return steps


def measure(network: nn.Module, images: Tensor, *, settings: list[str], rounds: int) -> dict[str, Any]:
    """Medians over the rounds of forward and backward in each setting, in turn; the first round is warm-up.

    A setting that is emulated, 20 times as slow, has that round alone.
    """
    targets = torch.zeros(len(images), dtype=torch.long)
    seconds: dict[str, list[float]] = {name: [] for name in settings}
    for _ in range(rounds + 1):
        for name, taken in seconds.items():
            if taken and taken[0] > 20 * seconds["float32"][0]:
                continue
            dtype, layout = SETTINGS[name]
            network, inputs = network.to(memory_format=layout), images.contiguous(memory_format=layout)
            network.zero_grad()
            start = time.perf_counter()
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                loss = nn.functional.cross_entropy(network(inputs).float(), targets)
            loss.backward()
            taken.append(time.perf_counter() - start)
    medians = {name: statistics.median(taken[1:] or taken) for name, taken in seconds.items()}
    return {
        "milliseconds": {name: round(median * 1000, 1) for name, median in medians.items()},
        "ratio": {name: round(medians["float32"] / median, 2) for name, median in medians.items()},
    }


if __name__ == "__main__":
    main()
