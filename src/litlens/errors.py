"""The one exception for a user's mistake, and the phrases that its messages share."""

import difflib
import os
import shlex
import subprocess
from collections.abc import Iterable
from importlib import import_module
from typing import Any


class UserError(Exception):
    """A mistake in a config, a path or a file, reported in one line: what is wrong, where, and what to do."""


def mistake_behind(error: BaseException | None) -> UserError | None:
    """The user's mistake that caused an error; jsonargparse wraps what a class raises when it is built."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__
    return error


def nearest(word: str, candidates: Iterable[str], *, most: int = 1) -> str:
    """The end of an error about a misspelled name: `; did you mean 'x'?`, or the choices if no name is similar.

    Case is ignored. Up to `most` similar names are offered. Empty without candidates.
    """
    known = list(dict.fromkeys(candidates))
    lower = {name.lower(): name for name in reversed(known)}
    if near := difflib.get_close_matches(word.lower(), lower, n=most, cutoff=0.6):
        return f"; did you mean {' or '.join(repr(lower[name]) for name in near)}?"
    return f"; choose from {listed(known, most=12)}" if known else ""


def listed(items: Iterable[object], most: int = 5) -> str:
    """The first `most` items separated by commas, and how many more there are: `a, b and 3 more`."""
    words = [str(item) for item in items]
    more = f" and {len(words) - most:,} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


def quoted(word: object) -> str:
    """A path or an option as one word of a command that is printed to be copied."""
    return subprocess.list2cmdline([str(word)]) if os.name == "nt" else shlex.quote(str(word))


def import_extra(module: str, *, extra: str, needed_by: str) -> Any:
    """Import a module of a package that litlens does not require; where it is missing, the error says how to get it."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:  # a package that the installed one needs
            raise
        raise UserError(f'{needed_by} needs {error.name}: pip install "litlens[{extra}]"') from error
