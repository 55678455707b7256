"""A user's mistake in one line: where, the key, what is wrong, and the nearest right name.

The one file that matches messages of other libraries, where nothing else says what is wrong: jsonargparse raises a tree
of 10 to 80 lines, with the keys on its branches and the reason at its last leaf. Each pattern has a test that fails
when the text changes.
"""

import difflib
import re
from argparse import ArgumentError
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import torch
from jsonargparse import ArgumentParser, Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn

from litlens.cli.choices import CLASS_OPTIONS, choices, class_path
from litlens.cli.command_line import CommandLine, config_paths
from litlens.cli.links import parameters
from litlens.data.module import ImageDataModule
from litlens.errors import UserError, mistake_behind, nearest, quoted

# The name of a metric that is monitored and never logged: quoted by ModelCheckpoint, between backticks from
# EarlyStopping, bare for ReduceLROnPlateau. What a classifier logs is known only after it has logged.
_MISSING_METRIC = re.compile(r"(?:ModelCheckpoint\(monitor='|conditioned on metric `?)([^'` ]+)")
# jsonargparse's types of numbers.
_RESTRICTED = {"PositiveInt": "a whole number above 0", "NonNegativeFloat": "a number of 0 or more"}


def parse(parser: ArgumentParser, line: CommandLine) -> Namespace:
    """Parse. Raises UserError with one line where that fails, or where a class is not where its path says."""
    for given in line.given:
        path = given.value
        if given.key in CLASS_OPTIONS and isinstance(path, str) and "." in path and not Path(path).is_file():
            imported(path, key=given.key, line=line)
    try:
        config = parser.parse_args(line.args)
    except ArgumentError as error:
        raise UserError(_one_line(str(error), parser, line)) from error
    for key in dict.fromkeys(given.key for given in line.given if given.value is None):
        _refuse_null(config, key, line)
    return config


def _refuse_null(config: Namespace, key: str, line: CommandLine) -> None:
    """Raise UserError where an option of a class is null and must not be; jsonargparse accepts null for many types."""
    owner, _, name = key.rpartition(".")
    if owner not in CLASS_OPTIONS or key in CLASS_OPTIONS or line.last(key) is not None:
        return
    path = config.get(f"{owner.replace('.', '.init_args.')}.class_path") or ""
    kind = parameters(imported(path, key=owner, line=line)).get(name) if "." in path else None
    if kind not in (None, Any) and type(None) not in get_args(kind):
        expected = kind.__name__ if isinstance(kind, type) else kind
        raise UserError(f"{line.where(key)}{key}: expected {expected}, not null: remove it for the default")


def imported(path: str, *, key: str, line: CommandLine) -> Any:
    """Import a class or function by its dotted path. Raises UserError where there is none; other errors pass."""
    module, _, name = path.rpartition(".")
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):  # a package that the user's module needs
            raise
        raise UserError(
            f"{line.where(key)}{key}: {path}: there is no module {error.name}: check its spelling, and that its "
            "folder is on PYTHONPATH"
        ) from error
    if not hasattr(found, name):
        names = [name for name in dir(found) if not name.startswith("_")]
        raise UserError(f"{line.where(key)}{key}: {module} has no {name}{nearest(name, names)}")
    return getattr(found, name)


@contextmanager
def mistakes_of_values() -> Iterator[None]:
    """Raise UserError where a constructor rejects a value or a package is missing."""
    try:
        yield
    except (ValueError, MisconfigurationException, ModuleNotFoundError) as error:
        if mistake_behind(error) is not None:
            raise
        reason: BaseException = error
        while reason.__cause__ is not None:  # jsonargparse wraps what a class raises
            reason = reason.__cause__
        raise UserError(f"invalid configuration: {' '.join(str(reason).split())}") from error


@contextmanager
def missing_metrics(trainer: Trainer) -> Iterator[None]:
    """Raise UserError where a callback or a schedule monitors a metric that is never logged."""
    try:
        yield
    except (MisconfigurationException, RuntimeError) as error:
        missing = _MISSING_METRIC.search(str(error))
        if missing is None:
            raise
        hint = nearest(missing[1], sorted(trainer.callback_metrics))
        raise UserError(f"monitor: {missing[1]} is never logged{hint}") from error


@contextmanager
def out_of_memory(trainer: Trainer, data: ImageDataModule) -> Iterator[None]:
    """Raise UserError with the batch size and the remedies where a device runs out of memory.

    The host's memory is not meant: torch's allocator there raises a plain RuntimeError.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        size, smaller = data.batch_size, max(1, data.batch_size // 2)
        line = f"data.batch_size: {size}: the device ran out of memory"
        remedies = [f"--data.batch_size={smaller}"] if size > 1 else ["smaller images (--data.image_size)"]
        if trainer.state.fn == TrainerFn.FITTING:
            if size > 1:
                more = trainer.accumulate_grad_batches * -(-size // smaller)
                remedies[0] += f" --trainer.accumulate_grad_batches={more}"
            if trainer.precision not in ("bf16-mixed", "16-mixed"):
                remedies.append("--trainer.precision=bf16-mixed")
            line += f" in epoch {trainer.current_epoch}, step {trainer.global_step}"
        raise UserError(f"{line}; try {', or '.join(remedies)}") from error


@contextmanager
def enough_memory() -> Iterator[None]:
    """Raise UserError where a device runs out of memory for a batch whose size is not an option's."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError("the device ran out of memory: add --accelerator cpu") from error


def _one_line(message: str, parser: ArgumentParser, line: CommandLine) -> str:
    if match := re.search(r"unrecognized arguments: (\S+)", message):
        option = match[1].partition("=")[0]
        if not option.startswith("-"):
            return f"command line: '{option}' is not an option: to name a config, write --config {quoted(option)}"
        name = option.removeprefix("--")
        # In a class, only what follows the class's own option is reported.
        for key in (given.key for given in line.given if given.key.endswith(f".{name}")):
            if (group := key.removesuffix(f".{name}")) in CLASS_OPTIONS and isinstance(chosen := line.last(group), str):
                taken = parameters(imported(class_path(group, chosen), key=group, line=line))
                first, kind = name.partition(".")[0], chosen.rpartition(".")[2]
                return f"{line.where(key)}{group}: {kind} has no '{first}'{nearest(first, taken)}"
        return f"command line: there is no option {option}{nearest(name, [*_options(parser), 'devices'])}"
    if "expected one argument" in message:
        empty = [given.key for given in line.given if given.value == ""]
        return f"command line: --{empty[-1]} needs a value"
    if match := re.search(r"Group '([^']+)' does not accept option '([^']+)'", message):
        group, option = match.groups()
        return f"{line.where(f'{group}.{option}')}{group} has no '{option}'{nearest(option, _options(parser, group))}"
    keys = [found[1] or found[2] for found in re.finditer(r'Parser key "([^"]+)"|--(\S+)\.help:', message)]
    key = ".".join(key for key in keys if key != "config")
    start = f"{line.where(key)}{key}: " if key else ""
    # The class of an optimizer or a schedule comes after the option, every other class before it.
    owners = re.findall(r"is not accepted\. Got value: Namespace\(class_path='([^']+)'", message)
    owners = owners or re.findall(r"given class_path '([^']+)'", message)
    owner = owners[-1].rpartition(".")[2] if owners else None
    if match := re.search(r"Option '([^'.]+)[^']*' is not accepted", message):
        option = match[1]
        if owner is None:
            groups = {name.partition(".")[0] for name in _options(parser)} - {
                "help",
                "config",
                "print_config",
                "print_shtab",
            }
            return f"{line.where(option)}there is no '{option}'{nearest(option, sorted(groups))}"
        known = [*parameters(imported(owners[-1], key=key, line=line)), "init_args"]
        return f"{line.where(f'{key}.{option}')}{key}: {owner} has no '{option}'{nearest(option, known)}"
    if match := re.search(r"the following arguments are required: (.+)", message):
        if owner is not None:
            return f"{start}{owner} needs {match[1]}: add it"
        if line.files:
            return f"{match[1]} is missing: give it in a config or on the command line"
    if not line.files and ("arguments are required" in message or "an instantiatable class" in message):
        return f"nothing to do without a config: --config FILE{nearest('', config_paths())}"
    if match := re.search(r"Multiple subclasses with name (\S+?)\. .* ambiguity: (.*)\.", message):
        return f"{start}several classes are called {match[1]}: write {_or(match[2].split(', '))}"
    if match := re.search(r"Import path (\S+) does not correspond to a subclass of (\S+)", message):
        return f"{start}{match[1]} is not a subclass of {match[2]}"
    match = re.search(r"Expected a dot import path string: (\S+)", message)
    if match and (key in CLASS_OPTIONS or not re.search(r"Expected a <class '(bool|int|float|str)'>", message)):
        return f"{start}there is no class '{match[1]}'{nearest(match[1], choices(key))}"
    if re.search("Not a valid subclass|an instantiatable class", message):
        return f"{start}class_path has to name a class, with its options in init_args{nearest('', choices(key))}"
    return f"{start}{_type_mistake(message, key, line)}"


def _type_mistake(message: str, key: str, line: CommandLine) -> str:
    literals = [
        word for found in re.findall(r"Literal\[([^\]]+)\]", message) for word in re.findall(r"'([^']+)'", found)
    ]
    types = [word for word in re.findall(r"Expected a <class '([^']+)'>", message) if word != "NoneType"]
    types += [_RESTRICTED.get(name, name) for name in re.findall(r"Not of type (\w+)", message)]
    given = line.find(key)
    if given is None or not (literals or types):
        return " ".join(message.split())[:200]
    expected = f"expected {_or([*types, *map(repr, literals)])}, not"
    if given.key != key:
        return f"{expected} an option '{given.key.removeprefix(f'{key}.')}'"
    close = difflib.get_close_matches(str(given.value), literals, n=1)
    return f"{expected} '{given.value}'" + (f"; did you mean '{close[0]}'?" if close else "")


def _or(words: Iterable[str]) -> str:
    return " or ".join(dict.fromkeys(words))


def _options(parser: ArgumentParser, group: str = "") -> list[str]:
    names = [option.removeprefix("--") for action in parser._actions for option in action.option_strings]
    if not group:
        return [name for name in names if not name.startswith("-")]
    return [name.removeprefix(f"{group}.") for name in names if name.startswith(f"{group}.")]
