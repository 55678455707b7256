"""The provenance of a run: versions, hardware and the git state of the code, as plain values for a checkpoint."""

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("litlens", "lightning", "torch", "torchvision", "torchmetrics", "numpy", "pillow", "albumentations")


def versions() -> dict[str, str]:
    """The versions of the packages that results depend on; a package that is not installed is left out."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def hardware(device: torch.device, *, number: int = 1) -> str:
    """The hardware that computes: number and name of the GPUs, or the CPU with the number of torch's threads.

    `device` is the one that is used: a machine with a GPU may train on its CPU.
    """
    if device.type == "cuda":
        return f"{number} × {torch.cuda.get_device_name(device)}"
    cpu = f"{_cpu_name()}, {torch.get_num_threads()} threads"
    return cpu if device.type == "cpu" else f"{device.type} of {cpu}"


def git_state(*classes: type) -> dict[str, Any]:
    """The commit of the code that runs, and whether the work tree differs from it; both None where git tracks none.

    The code is that of the first of `classes`, or else of litlens, whose module git tracks: an installed package is
    not part of the repository around its environment, nor is code of the current folder.
    """
    modules = [sys.modules[kind.__module__] for kind in classes] + [sys.modules[__name__]]
    for file in (Path(path) for module in modules if (path := getattr(module, "__file__", None))):
        if _git(file.parent, "ls-files", "--error-unmatch", file.name) is None:
            continue
        commit = _git(file.parent, "rev-parse", "HEAD")
        changes = _git(file.parent, "status", "--porcelain")
        return {"commit": commit, "dirty": None if changes is None else bool(changes)}
    return {"commit": None, "dirty": None}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"
