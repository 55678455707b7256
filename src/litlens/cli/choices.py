"""The classes that an option takes: their short names, and how help lists them."""

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

# The base class of an option that takes a class, and the modules whose classes are suggested.
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
_resolve = jsonargparse._typehints.resolve_class_path_by_name
_list_subclasses = ActionTypeHint.extra_help


def choices(option: str) -> list[str]:
    """Names of classes for an option; none where it does not take a class."""
    base, homes = _OPTIONS.get(option, (object, ()))
    found = ((name, getattr(home, name)) for home in homes for name in getattr(home, "__all__", dir(home)))
    return [name for name, kind in found if kind is not base and _is_choice(kind, base)]


def resolve(cls: type | tuple[type], name: str) -> str:
    """Resolve a short name to the class of litlens that has it: torchvision has an `MLP` as well.

    jsonargparse 4.53 refuses a name that two imported classes share, and has no setting for it.
    """
    for home in (litlens, litlens.callbacks):
        if name in home.__all__ and isinstance(cls, type) and _is_choice(getattr(home, name), cls):
            return f"{home.__name__}.{name}"
    return _resolve(cls, name)


def class_path(option: str, name: str) -> str:
    """The path of the class that an option names; a path is returned as it is."""
    return resolve(_OPTIONS[option][0], name)


def show_help(args: list[str]) -> None:
    """For `--trainer.help`, `--data.help` and the like without a class, print the options or classes, and exit."""
    if any(arg.partition("=")[0].endswith(".help") for arg in args):
        for option in CLASS_OPTIONS:  # imports them, so that jsonargparse lists them
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


def _short_list(action: ActionTypeHint) -> str:
    """List classes of litlens and torchvision first, and others only where they are few.

    jsonargparse lists every subclass that is imported, hundreds of layers of torch for a network
    (https://github.com/Lightning-AI/pytorch-lightning/issues/20591).
    """
    text: str = _list_subclasses(action)  # type: ignore[no-untyped-call]
    introduction, separator, listed = text.partition("subclasses: ")
    if not separator:
        return introduction
    paths = listed.split(", ")
    public = [f"{home.__name__}.{name}" for home in (litlens, litlens.callbacks) for name in home.__all__]
    classifiers = [f"litlens.{name}" for name in choices("model")] if "torch.nn.Linear" in paths else []
    ours = [path for path in paths if path in public and path not in classifiers]
    networks = [path for path in paths if path.startswith("torchvision.models.") and path.count(".") == 2]
    others = [path for path in paths if not path.startswith(("litlens.", "torchvision."))]
    shown = [*ours, *networks, *(others if len(others) < _MOST else ["or any other by its import path"])]
    return f"{introduction}{separator}{', '.join(shown)}"


jsonargparse._typehints.resolve_class_path_by_name = resolve
ActionTypeHint.extra_help = _short_list  # type: ignore[method-assign]
