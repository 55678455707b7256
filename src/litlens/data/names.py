"""The names of many files in one block of memory: a list of strings takes four times as much."""

import os
from array import array
from collections.abc import Iterable, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray


class Names(Sequence[str]):
    """Strings that are encoded one after the other, as file names are; what is chosen of them shares the block.

    Equal to a list or tuple of the same strings.

    Args:
        names: The strings.
    """

    def __init__(self, names: Iterable[str]) -> None:
        block, ends = bytearray(), array("q", [0])
        for name in names:
            block += os.fsencode(name)
            ends.append(len(block))
        self._block, self._ends = bytes(block), np.frombuffer(ends, np.int64)
        self._places: NDArray[np.integer[Any]] = np.arange(len(ends) - 1, dtype=np.int32)

    def at(self, places: NDArray[np.integer[Any]]) -> "Names":
        """The strings at some places, in the order of the places."""
        chosen = object.__new__(Names)
        chosen._block, chosen._ends, chosen._places = self._block, self._ends, self._places[places]
        return chosen

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> "Names": ...
    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return self.at(np.arange(len(self))[place])
        row = self._places[place]
        return os.fsdecode(self._block[self._ends[row] : self._ends[row + 1]])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, list | tuple | Names):
            return NotImplemented
        return len(self) == len(other) and all(mine == its for mine, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as of a list


def at_places(names: Sequence[str], places: NDArray[np.integer[Any]]) -> Sequence[str]:
    """Some of the names, in the order of their places."""
    return names.at(places) if isinstance(names, Names) else [names[place] for place in places]
