"""The command line, read once: every value given, with its key, file and line."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from litlens.errors import UserError, nearest

SHELL = "command line"


@dataclass(frozen=True)
class Given:
    """One value, given in a config file or on the command line.

    Args:
        key: As on the command line: `model.network.dropout`, without `class_path` and `init_args`.
        value: As YAML reads it. The value of a class is its name.
        where: `configs/mine.yaml, line 3`, or `command line`.
    """

    key: str
    value: Any
    where: str


@dataclass(frozen=True)
class CommandLine:
    """The arguments of a command, the config files among them, and every value given, in order."""

    args: list[str]
    files: list[Path]
    given: list[Given]

    def last(self, key: str) -> Any:
        """The last value given for a key, which is the valid one; None where there is none."""
        return next((given.value for given in reversed(self.given) if given.key == key), None)

    def find(self, key: str) -> Given | None:
        """The last value given for a key or one below it."""
        return next((given for given in reversed(self.given) if f"{given.key}.".startswith(f"{key}.")), None)

    def where(self, key: str) -> str:
        """The start of a message about a key: `FILE, line N: ` of its last value, or an empty string."""
        found = self.find(key)
        return f"{found.where}: " if found else ""


def read_command_line(args: list[str]) -> CommandLine:
    """Read arguments and the configs that they name. Raises UserError for a config that cannot be read."""
    files: list[Path] = []
    given: list[Given] = []
    for option, text in _options(args):
        try:
            node = _yaml(text)
        except yaml.YAMLError:  # a string, to the parser
            node = None
        if option == "--search" and text and not isinstance(node, yaml.MappingNode):
            given += _values(_read(Path(text), option), "search", text)
        elif option not in ("-c", "--config"):
            key = _spoken(option.removeprefix("--"))
            given += _values(node, key, SHELL) if node else [Given(key, text, SHELL)]
        elif isinstance(node, yaml.MappingNode):
            given += _values(node, "", SHELL)
        elif not text or text.lstrip().startswith("{"):
            raise UserError(f"--config: '{text}' is neither a file nor YAML such as {{trainer: {{max_epochs: 1}}}}")
        else:
            files.append(Path(text))
            given += _values(_read(files[-1], "--config"), "", str(files[-1]))
    return CommandLine(args, files, given)


def config_paths() -> list[str]:
    """The files below `configs`, to choose from."""
    return [str(path) for path in sorted(Path("configs").rglob("*.yaml"))]


def _options(args: list[str]) -> Iterator[tuple[str, str]]:
    """Each option with its value, which is empty for a switch."""
    for arg, after in zip(args, [*args[1:], ""], strict=True):
        option, equals, value = arg.partition("=")
        if option.startswith("--") or option == "-c":
            yield option, value if equals else "" if after.startswith("--") else after


def _yaml(text: str) -> yaml.Node | None:
    loader = yaml.SafeLoader(text)
    node = loader.get_single_node()
    if node is not None:
        loader.construct_document(node)  # raises where a value is not a plain one
    return node


def _read(file: Path, option: str) -> yaml.MappingNode:
    try:
        node = _yaml(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{option}: there is no file {file}{nearest(str(file), config_paths())}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{option}: {file} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{file}{line}: not YAML: {getattr(error, 'problem', error)}") from error
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{file}: a config is a mapping such as `data: {{class_path: DigitsDataModule}}`")
    return node


def _values(node: yaml.Node, key: str, where: str, line: int | None = None) -> Iterator[Given]:
    """The values below a YAML node. A list is one value, and the options of its items are values as well."""
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            inner = _spoken(f"{key}.{name.value}".removeprefix("."))
            yield from _values(value, inner, where, name.start_mark.line + 1)
        return
    at = where if where == SHELL or line is None else f"{where}, line {line}"
    yield Given(key, yaml.SafeLoader("").construct_document(node), at)
    for item in node.value if isinstance(node, yaml.SequenceNode) else []:
        if isinstance(item, yaml.MappingNode):
            yield from _values(item, key, where, item.start_mark.line + 1)


def _spoken(key: str) -> str:
    """A key as on the command line; `callbacks+` in YAML appends to callbacks."""
    return re.sub(r"\.(class_path|init_args|dict_kwargs)(?=\.|$)|\+$", "", key)
