"""What `--trainer.help`, `--data.help`, `--model.help` and `--model.network.help` print."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jsonargparse import ArgumentParser
from jsonargparse._typehints import ActionTypeHint
from lightning.pytorch import LightningModule, Trainer
from torch import nn

import litlens
from litlens.data.module import ImageDataModule

_MOST = 60  # of an nn.Module more are known than anybody reads


@contextmanager
def short_lists() -> Iterator[None]:
    """Within it, help lists litlens' and torchvision's classes first, and of a long list nothing else.

    jsonargparse lists every subclass that is imported, hundreds of layers of torch for a network, and has no option
    for it.
    """
    before: Callable[[ActionTypeHint], str] = ActionTypeHint.extra_help

    def ordered(action: ActionTypeHint) -> str:
        introduction, _, listed = before(action).partition("subclasses: ")
        paths = listed.split(", ")
        ours = [path for path in paths if path.removeprefix("litlens.") in litlens.__all__ and _is_choice(path)]
        networks = [path for path in paths if path.startswith("torchvision.models.") and path.count(".") == 2]
        others = [path for path in paths if not path.startswith(("litlens.", "torchvision."))]
        shown = [*ours, *networks, *(others if len(others) < _MOST else ["or any other by its import path"])]
        return f"{introduction}subclasses: {', '.join(shown)}" if listed else introduction

    ActionTypeHint.extra_help = ordered  # type: ignore[method-assign]
    try:
        yield
    finally:
        ActionTypeHint.extra_help = before  # type: ignore[method-assign]


def show_help(args: list[str]) -> None:
    """Print the trainer's options, or the classes to choose from where a class has yet to be named; then exit."""
    if "--trainer.help" in args:
        parser = ArgumentParser(add_help=False, usage="train.py --config FILE [--trainer.OPTION VALUE ...]")
        parser.add_class_arguments(Trainer, "trainer")
        with short_lists():
            parser.print_help()
        sys.exit(0)
    bases: dict[str, type] = {
        "--data.help": ImageDataModule,
        "--model.help": LightningModule,
        "--model.network.help": nn.Module,
    }
    for option, base in bases.items():
        if args[-1:] == [option]:
            names = [name for name in litlens.__all__ if _is_subclass(getattr(litlens, name), base)]
            names = [name for name in names if base is not nn.Module or _is_choice(name)]
            sys.stdout.write(f"classes for {option[: -len('.help')]}, each with its options by {option} NAME:\n")
            sys.stdout.writelines(f"  {name}\n" for name in names)
            sys.exit(0)


def _is_choice(path: str) -> bool:
    """Whether a public class is not a classifier, which is an nn.Module, too."""
    return not _is_subclass(getattr(litlens, path.removeprefix("litlens.")), LightningModule)


def _is_subclass(found: object, base: type) -> bool:
    return isinstance(found, type) and issubclass(found, base) and found is not base
