"""The values that follow from the data alone: which they are, and what is said to whoever sets one by hand."""

import re
from typing import Any

import yaml

from litlens.cli.mistakes import config_files, inline_configs
from litlens.data.module import ImageDataModule
from litlens.errors import UserError

# From an attribute of the data module to the key of the model.
LINKS = {
    "class_names": "model.init_args.class_names",
    "num_classes": "model.init_args.network.init_args.num_classes",
    "in_channels": "model.init_args.network.init_args.in_channels",
    "image_size": "model.init_args.network.init_args.image_size",
}


def linked_values(data: ImageDataModule) -> dict[str, Any]:
    """The linked keys of the model with what the data make of them, as plain values."""
    return {target: _plain(getattr(data, source)) for source, target in LINKS.items()}


def refuse_others(data: ImageDataModule, *, args: list[str]) -> None:
    """Raise UserError where a config or the shell sets a linked key to another value than the data's.

    jsonargparse overrides such a value without a word. The same value is welcome: a run's own config.yaml holds it.
    """
    for target, value in linked_values(data).items():
        for where, given in _given(target, args=args):
            if _plain(given) != value:
                raise UserError(
                    f"{where}: {target.replace('.init_args', '')} is {value}, it follows from the data: "
                    f"remove the {given} given here, or change the data"
                )


def _given(target: str, *, args: list[str]) -> list[tuple[str, Any]]:
    configs: list[tuple[str, Any]] = [(str(file), yaml.safe_load(file.read_text())) for file in config_files(args)]
    configs += [("command line", config) for config in inline_configs(args)]
    found = []
    for where, value in configs:
        for key in target.split("."):
            if not isinstance(value, dict):  # a class by its name alone, without options
                value = None
            # `init_args` may be left out, as jsonargparse allows.
            elif key in value or key != "init_args":
                value = value.get(key)
        if value is not None and not isinstance(value, dict):
            found.append((where, value))
    option = re.compile("--" + re.escape(target).replace(r"\.init_args", r"(?:\.init_args)?") + "(?:=(.*))?")
    for arg, after in zip(args, [*args[1:], ""], strict=True):
        if match := option.fullmatch(arg):
            found.append(("command line", yaml.safe_load(match[1] if match[1] is not None else after)))
    return found


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
