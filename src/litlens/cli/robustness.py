"""Stands in for the module of that name until it is merged."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from torch import nn

from litlens.data.module import ImageDataModule


def show_robustness(scored: Mapping[str, tuple[nn.Module, ImageDataModule]], *, folder: Path, console: Console) -> None:
    """Says what it was given."""
    console.print(f"robustness of {', '.join(scored)} into {folder}", soft_wrap=True)
