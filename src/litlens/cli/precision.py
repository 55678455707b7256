"""Which precision a run gets: a config may ask for bf16 that this machine's processor does not have."""

import platform

import torch
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator, XLAAccelerator

_BF16 = ("bf16-mixed", "bf16")


def available_precision(asked: str | int | None, *, accelerator: str) -> str | int | None:
    """The precision asked for; "32-true" for bf16 autocast on a processor without it, which torch then emulates.

    Emulated, a step of the scratch CNNs takes 13 to 17 times as long as in float32 (benchmarks/precision.py), so a
    config that is fast on one machine would not end on another.
    """
    devices = (CUDAAccelerator, MPSAccelerator, XLAAccelerator)
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not any(device.is_available() for device in devices))
    return "32-true" if asked in _BF16 and on_cpu and not cpu_has_bf16() else asked


def cpu_has_bf16() -> bool:
    """Whether the processor multiplies bf16 itself; of those that are not x86 nothing is known, so they are trusted."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    if hasattr(torch.cpu, "get_capabilities"):
        known = torch.cpu.get_capabilities()
        return bool(known.get("avx512_bf16") or known.get("amx_bf16"))
    return torch.backends.cpu.get_cpu_capability() == "AVX512"  # older torch tells no more
