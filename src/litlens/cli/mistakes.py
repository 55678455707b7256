"""A user's mistake on the command line or in a config, told in one line: where, what, and the nearest right name.

jsonargparse reports a mistake as a tree of 10 to 80 lines; its last leaf says what is wrong, the keys above it where.
"""

import difflib
import inspect
import re
from argparse import ArgumentError
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch.callbacks
import lightning.pytorch.loggers
import torch
import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException

import litlens
import litlens.models.schedules
from litlens.errors import UserError, mistake_behind, nearest

SHORTCUTS = {"devices": "trainer.devices"}  # options of the command for longer ones of the parser

_CLASS_HOMES = (
    litlens,
    torch.optim,
    torch.optim.lr_scheduler,
    lightning.pytorch.callbacks,
    lightning.pytorch.loggers,
)


def parse(parser: ArgumentParser, args: list[str]) -> Namespace:
    """Parse, and raise UserError with one line where that fails."""
    for file in config_files(args):
        check_config(file)
    try:
        return parser.parse_args(args)
    except ArgumentError as error:
        raise UserError(one_line(str(error), parser=parser, args=args)) from error


def check_config(file: Path) -> None:
    """Raise UserError where a config cannot be read, with the file's name, which jsonargparse does not know."""
    try:
        with file.open(encoding="utf-8") as stream:
            content = yaml.safe_load(stream)
    except FileNotFoundError:
        by_name = {Path(name).name: name for name in _configs()}
        close = difflib.get_close_matches(file.name, by_name, n=1)
        raise UserError(
            f"--config: there is no file {file}{nearest(by_name[close[0]] if close else str(file), _configs())}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--config: {file} cannot be read: {error}") from error
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{file}{line}: not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{file}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: a config is a mapping such as `data: {{class_path: DigitsDataModule}}`")


@contextmanager
def mistakes_of_values() -> Iterator[None]:
    """Raise UserError where a class refuses a value that it is built with, or lacks a package that it needs."""
    try:
        yield
    except (ValueError, MisconfigurationException, ModuleNotFoundError) as error:
        if mistake_behind(error) is not None:
            raise
        raise UserError(f"cannot build what is asked for: {' '.join(str(error).split())}") from error


def config_files(args: list[str]) -> list[Path]:
    """The files that `--config` names, though a value may also be YAML itself: `inline_configs`."""
    return [Path(value) for value in _config_values(args) if not isinstance(_yaml(value), dict)]


def inline_configs(args: list[str]) -> list[dict[str, Any]]:
    """The values of `--config` that are YAML themselves."""
    return [value for value in map(_yaml, _config_values(args)) if isinstance(value, dict)]


def one_line(message: str, *, parser: ArgumentParser, args: list[str]) -> str:
    """What jsonargparse's message says, as `where: key: what, the nearest right name`."""
    key = ".".join(re.findall(r'Parser key "([^"]+)"', message))
    key = re.sub(r"(^|\.)config\.?$", "", key)
    if match := re.search(r"unrecognized arguments: (\S+)", message):
        option = match[1].partition("=")[0]
        if not option.startswith("-"):
            return f"command line: '{option}' stands alone; every value follows an option, as in --config {option}"
        hint = nearest(option.removeprefix("--"), [*_options(parser), *SHORTCUTS])
        return f"command line: there is no option {option}{hint}"
    if match := re.search(r"Group '([^']+)' does not accept option '([^']+)'", message):
        group, option = match.groups()
        return f"{_where(option, args)}{group} has no '{option}'{nearest(option, _options(parser, group))}"
    if match := re.search(r"Option '([^']+)' is not accepted", message):
        # Of an optimizer or a schedule, the class stands behind the option; of all else, before it.
        owner = re.findall(r"is not accepted\. Got value: Namespace\(class_path='([^']+)'", message)
        owner = owner or re.findall(r"given class_path '([^']+)'", message)
        if not owner:
            top = match[1].partition(".")[0]
            return f"{_where(top, args)}there is no '{top}'{nearest(top, _options(parser))}"
        hint = nearest(match[1], _parameters(owner[-1]))
        return f"{_where(match[1], args)}{key}: {owner[-1].rpartition('.')[2]} has no '{match[1]}'{hint}"
    if match := re.search(r"the following arguments are required: (.+)", message):
        owner = re.findall(r"given class_path '([^']+)'", message)
        name = owner[-1].rpartition(".")[2] if owner else "the command"
        if name == "the command" and not config_files(args):
            return f"nothing to do without a config: --config FILE{nearest('', _configs())}"
        return f"{_where(name, args)}{key + ': ' if key else ''}{name} needs {match[1]}"
    if match := re.search(r"Multiple subclasses with name (\S+?)\. .* ambiguity: (.*)\.", message):
        return (
            f"{_where(match[1], args)}{key}: several classes are called {match[1]}: write {_or(match[2].split(', '))}"
        )
    match = re.search(r"Expected a dot import path string: (\S+)", message)
    if match and not re.search(r"Expected a <class '(bool|int|float|str)'>", message):
        return f"{_where(match[1], args)}{key}: there is no class '{match[1]}'{nearest(match[1], _classes(key))}"
    if match := re.search(r"Import path (\S+) does not correspond to a subclass of (\S+)", message):
        return f"{_where(match[1], args)}{key}: {match[1]} is not a subclass of {match[2]}"
    if match := re.search(r"Expected key (\S+) to be in data", message):
        name = match[1].rpartition(".")[2]
        return f"{key}: the network takes no '{name}', which follows from the data: add it to its __init__"
    return f"{_where_value(message, args)}{key}: {_type_mistake(message)}"


def _type_mistake(message: str) -> str:
    literals = [
        word for found in re.findall(r"Literal\[([^\]]+)\]", message) for word in re.findall(r"'([^']+)'", found)
    ]
    types = [word for word in re.findall(r"Expected a <class '([^']+)'>", message) if word != "NoneType"]
    patterns = (r"dot import path string: (\S+)", r"Got value: (.*)", r"Given value: (.*)")
    value = next((match[1].strip() for pattern in patterns if (match := re.search(pattern, message))), None)
    if value is None or not (literals or types):
        return " ".join(message.split())[:200]
    close = difflib.get_close_matches(value, literals, n=1)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    return f"expected {_or([*types, *map(repr, literals)])}, not '{value}'{hint}"


def _or(words: Iterable[str]) -> str:
    return " or ".join(dict.fromkeys(words))


def _config_values(args: list[str]) -> list[str]:
    """In the order in which they stand: the first names the run, and the later one wins."""
    values = []
    for arg, after in zip(args, [*args[1:], ""], strict=True):
        if arg in ("--config", "-c"):
            values.append(after)
        elif arg.startswith("--config="):
            values.append(arg.partition("=")[2])
    return values


def _yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return None


def _where(word: str, args: list[str]) -> str:
    """The config file and line that name a word last, else that it stands on the command line."""
    if any(re.search(rf"\b{re.escape(word)}\b", arg.partition("=")[0]) for arg in args if arg.startswith("--")):
        return "command line: "
    for file in reversed(config_files(args)):
        lines = file.read_text(errors="replace").splitlines() if file.is_file() else []
        for number, line in enumerate(lines, start=1):
            if re.search(rf"(?<![\w.]){re.escape(word)}\b", line.partition("#")[0]):
                return f"{file}, line {number}: "
    return ""


def _where_value(message: str, args: list[str]) -> str:
    keys = re.findall(r'Parser key "([^"]+)"', message)
    return _where(keys[-1].rpartition(".")[2], args) if keys else ""


def _options(parser: ArgumentParser, group: str = "") -> list[str]:
    names = [option.removeprefix("--") for action in parser._actions for option in action.option_strings]
    if not group:
        return [name for name in names if not name.startswith("-")]
    return [name.removeprefix(f"{group}.") for name in names if name.startswith(f"{group}.")]


def _parameters(class_path: str) -> list[str]:
    module, _, name = class_path.rpartition(".")
    found: Any = getattr(__import__(module, fromlist=[name]), name)
    parameters: set[str] = set()
    for base in inspect.getmro(found):
        if "__init__" in vars(base):
            parameters.update(inspect.signature(vars(base)["__init__"]).parameters)
    return sorted(parameters - {"self", "args", "kwargs"})


def _classes(key: str) -> list[str]:
    """The classes that the option of that key may be meant for: no optimizer in place of a data module."""
    group = key.split(".")[0] if key in ("data", "model") else key.rpartition(".")[2]
    homes = {
        "optimizer": _CLASS_HOMES[1:2],
        "lr_scheduler": (litlens.models.schedules, torch.optim.lr_scheduler),
        "callbacks": _CLASS_HOMES[3:4],
        "logger": _CLASS_HOMES[4:],
    }
    names = [name for home in homes.get(group, (litlens,)) for name in dir(home) if name[0].isupper()]
    if group == "data":
        return [name for name in names if name.endswith("DataModule")]
    return [name for name in names if group != "model" or name.endswith("Classifier")]


def _configs() -> list[str]:
    return [str(path) for path in sorted(Path("configs").rglob("*.yaml"))]
