"""A progress bar for whatever takes more than two seconds, and nothing for what doesn't."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def progress(items: Iterable[Item], *, description: str, total: int | None = None) -> Iterator[Item]:
    """Yield the items, under a bar on standard error once two seconds have passed; none where that is no terminal."""
    yield from tqdm(items, desc=description, total=total, delay=2, leave=False, unit="", disable=None)
