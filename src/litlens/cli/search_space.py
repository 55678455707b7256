"""What a search tries: options as on the command line, each with a range or a list of choices."""

import json
from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from litlens.cli.command_line import SHELL, CommandLine
from litlens.cli.parser import TrainingCommand
from litlens.errors import UserError, nearest

_NAMES = ("low", "high", "log", "step", "choices")

Space = dict[str, BaseDistribution]


def read_space(line: CommandLine) -> dict[str, dict[str, Any]]:
    """What `--search` gives for each option, in plain values. Raises UserError for anything but ranges and choices."""
    space: dict[str, dict[str, Any]] = {}
    for given in line.given:
        key, _, name = given.key.removeprefix("search.").rpartition(".")
        if not given.key.startswith("search.") or ".choices." in given.key:  # that is inside a choice
            continue
        if name not in _NAMES:
            raise UserError(f"{given.where}: {key}: a range has no '{name}'{nearest(name, _NAMES)}")
        of_key = space.setdefault(key, {})
        if isinstance(given.value, str) and isinstance(of_key.get(name), list):  # the class of a choice
            continue
        of_key[name] = given.value
    if not space:
        raise UserError("--search: nothing to search: give a file with options such as `model.optimizer.lr`")
    return space


def distributions(space: Mapping[str, Mapping[str, Any]], line: CommandLine) -> Space:
    """The distribution of each option. Raises UserError where a range is not one."""
    found = {}
    for key, options in space.items():
        try:
            found[key] = _distribution(options)
        except (ValueError, TypeError) as error:
            raise UserError(f"{line.where(f'search.{key}')}{key}: {error}") from error
    return found


def check_space(space: Space, line: CommandLine, args: list[str]) -> None:
    """Raise UserError where the command line `args` does not take an option, or one of its values."""
    for key, distribution in space.items():
        ends = distribution.choices if isinstance(distribution, CategoricalDistribution) else _ends(distribution)
        for value in reversed(ends):  # the next options are checked with the first
            tried = [*args, *arguments({key: value})]
            try:
                TrainingCommand(tried)
            except UserError as error:
                where = line.where(f"search.{key}")
                raise UserError(f"{where}{str(error).removeprefix(f'{SHELL}: ')}") from error
        args = tried


def arguments(values: Mapping[str, Any]) -> list[str]:
    """Values as options of the command line."""
    return [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in values.items()]


def _distribution(options: Mapping[str, Any]) -> BaseDistribution:
    if options.keys() == {"choices"}:
        if not isinstance(options["choices"], list):
            raise ValueError(f"choices: {options['choices']} is not a list")
        # Optuna stores plain values only.
        return CategoricalDistribution(
            [json.dumps(choice) if isinstance(choice, list | dict) else choice for choice in options["choices"]]
        )
    if not {"low", "high"} <= options.keys() or "choices" in options:
        raise ValueError("give either low and high, with log or step if wanted, or choices")
    numbers: dict[str, Any] = {name: _number(options[name]) for name in ("low", "high", "step") if name in options}
    kind = IntDistribution if all(isinstance(number, int) for number in numbers.values()) else FloatDistribution
    made: BaseDistribution = kind(**numbers, log=bool(options.get("log", False)))
    return made


def _number(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{value} is not a number")
    return value if isinstance(value, int) else float(value)  # YAML 1.1 reads 1e-4 as a string


def _ends(distribution: Any) -> tuple[Any, Any]:
    return distribution.low, distribution.high
