"""A progress bar for what takes more than two seconds."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def progress(items: Iterable[Item], *, description: str, total: int | None = None) -> Iterator[Item]:
    """Yield the items, with a bar on standard error after two seconds, if that is a terminal."""
    yield from tqdm(items, desc=description, total=total, delay=2, leave=False, unit="", disable=None)
