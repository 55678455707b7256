"""The classes that an option takes: the short names that stand for them, and how help lists them."""

import sys
from types import ModuleType

import jsonargparse._typehints
import lightning.pytorch.callbacks
import lightning.pytorch.loggers
import torch
from jsonargparse import ArgumentParser
from jsonargparse._typehints import ActionTypeHint
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from torch import nn

import litlens
import litlens.callbacks
import litlens.models.schedules
from litlens.data.module import ImageDataModule

# What the classes of an option are, and where they are offered from.
_OPTIONS: dict[str, tuple[type, tuple[ModuleType, ...]]] = {
    "data": (ImageDataModule, (litlens,)),
    "model": (LightningModule, (litlens,)),
    "model.network": (nn.Module, (litlens,)),
    "model.optimizer": (torch.optim.Optimizer, (torch.optim,)),
    "model.lr_scheduler": (torch.optim.lr_scheduler.LRScheduler, (litlens.models.schedules, torch.optim.lr_scheduler)),
    "trainer.callbacks": (Callback, (litlens.callbacks, lightning.pytorch.callbacks)),
    "trainer.logger": (Logger, (lightning.pytorch.loggers,)),
}
CLASS_OPTIONS = tuple(_OPTIONS)
_MOST = 60  # more than anybody reads


def choices(option: str) -> list[str]:
    """The names of the classes that an option takes; none where it takes no class."""
    base, homes = _OPTIONS.get(option, (object, ()))
    found = ((name, getattr(home, name)) for home in homes for name in getattr(home, "__all__", dir(home)))
    return [name for name, kind in found if kind is not base and _is_choice(kind, base)]


def show_help(args: list[str]) -> None:
    """Print the trainer's options, or the classes to choose from where a class has yet to be named; then exit."""
    if any(arg.partition("=")[0].endswith(".help") for arg in args):
        for option in CLASS_OPTIONS:  # imported, so that they are listed
            choices(option)
    if "--trainer.help" in args:
        parser = ArgumentParser(add_help=False, usage="train.py --config FILE [--trainer.OPTION VALUE ...]")
        parser.add_class_arguments(Trainer, "trainer")
        parser.print_help()
        sys.exit(0)
    for option in CLASS_OPTIONS:
        if args[-1:] == [f"--{option}.help"]:
            sys.stdout.write(f"classes for --{option}, each with its options by --{option}.help NAME:\n")
            sys.stdout.writelines(f"  {name}\n" for name in choices(option))
            sys.exit(0)


def _is_choice(kind: object, base: type) -> bool:
    if not isinstance(kind, type) or not issubclass(kind, base):
        return False
    return base is not nn.Module or not issubclass(kind, LightningModule)  # a classifier is not a network


_resolve = jsonargparse._typehints.resolve_class_path_by_name
_list_subclasses = ActionTypeHint.extra_help


def _own_first(cls: type | tuple[type], name: str) -> str:
    """Resolve the short name of a class of litlens to that class: `MLP` is one of torchvision's as well.

    jsonargparse 4.53 knows what is imported, refuses a name that two classes share, and has no setting for it.
    """
    for home in (litlens, litlens.callbacks):
        if name in home.__all__ and isinstance(cls, type) and _is_choice(getattr(home, name), cls):
            return f"{home.__name__}.{name}"
    return _resolve(cls, name)


def _short_list(action: ActionTypeHint) -> str:
    """List litlens' and torchvision's classes first, and of a long list nothing else.

    jsonargparse lists every subclass that is imported, hundreds of layers of torch for a network
    (https://github.com/Lightning-AI/pytorch-lightning/issues/20591).
    """
    text: str = _list_subclasses(action)  # type: ignore[no-untyped-call]
    introduction, separator, listed = text.partition("subclasses: ")
    if not separator:
        return introduction
    paths = listed.split(", ")
    classifiers = [f"litlens.{name}" for name in choices("model")] if "torch.nn.Linear" in paths else []
    ours = [path for path in paths if path.startswith("litlens.") and path.count(".") == 1 and path not in classifiers]
    networks = [path for path in paths if path.startswith("torchvision.models.") and path.count(".") == 2]
    others = [path for path in paths if not path.startswith(("litlens.", "torchvision."))]
    shown = [*ours, *networks, *(others if len(others) < _MOST else ["or any other by its import path"])]
    return f"{introduction}{separator}{', '.join(shown)}"


jsonargparse._typehints.resolve_class_path_by_name = _own_first
ActionTypeHint.extra_help = _short_list  # type: ignore[method-assign]
