"""A row of the table, and how its two sides are timed."""

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from on_gpu.timing import now


class Skipped(Exception):  # noqa: N818  (not an error)
    """A row cannot be measured here, for this reason; it is not written, and tried again by the next run."""


@dataclass(frozen=True)
class Row:
    """One line of the table: `ratio` and what it should reach, and both sides in seconds, if `what` says no other unit.

    Of a row that is to be fast, the ratio is theirs / ours (how many times as fast); of one that is to cost little,
    ours / theirs (how much longer) or, where `what` says so, the difference in seconds.
    """

    what: str
    ours: float
    theirs: float
    ratio: float
    reach: str  # "at least 68", "at most 1.02"
    repeats: int

    @property
    def holds(self) -> bool:
        """Whether the ratio reaches what it should."""
        *_, word, bound = self.reach.split()
        return self.ratio >= float(bound) if word == "least" else self.ratio <= float(bound)

    def to_dict(self) -> dict[str, Any]:
        """The row as in docs/speed.json."""
        rounded = {key: float(f"{getattr(self, key):.4g}") for key in ("ours", "theirs", "ratio")}
        return asdict(self) | rounded | {"holds": self.holds}


def row(
    what: str,
    ours: list[float],
    theirs: list[float],
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    difference: bool = False,
) -> Row:
    """A row of the seconds of both sides, turn by turn: medians, and the median of the turns' ratios or differences."""
    pairs = list(zip(ours, theirs, strict=True))
    ratios = [a - b if difference else b / a if at_most is None else a / b for a, b in pairs]
    reach = f"at least {at_least}" if at_most is None else f"at most {at_most}"
    return Row(what, statistics.median(ours), statistics.median(theirs), statistics.median(ratios), reach, len(pairs))


def take_turns(*sides: Callable[[], object], repeats: int, warm_up: int = 1) -> list[list[float]]:
    """The seconds of each side in each turn; the turns that warm up are not counted."""
    taken: list[list[float]] = [[] for _ in sides]
    for turn in range(warm_up + repeats):
        for side, seconds in zip(sides, taken, strict=True):
            start = now()
            side()
            if turn >= warm_up:
                seconds.append(now() - start)
    return taken
