"""What a search has tried: the best value over the trials, and the value against each option."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from litlens.evaluation.style import BLUE, GRAY, ORANGE, house_style, new_figure, plain_axes, shortened

_ACROSS = 3  # axes in a row
_DECADES = 1.5  # from this range on, an axis is logarithmic


@dataclass(frozen=True)
class SearchTrial:
    """One trial.

    Args:
        state: `complete`, `pruned` or `fail`.
        value: Its best value; of one that was pruned, the last; None of one that failed before the first.
        values: The options that it tried, by name.
        failed: Why it failed.
        epochs: How many it trained, where that is known.
    """

    state: str
    value: float | None
    values: Mapping[str, Any]
    failed: str = ""
    epochs: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class SearchResult:
    """The trials of a search, in their order, and the one that is best by `monitor` (`mode`: max or min)."""

    monitor: str
    mode: str
    best_trial: int
    trials: Sequence[SearchTrial] = field(default_factory=list)


@house_style
def search_figure(result: SearchResult) -> Figure:
    """The value of each trial with the best so far, and against each option that was searched."""
    found = result.trials[result.best_trial].values
    options = list(found)
    rows = math.ceil((1 + len(options)) / _ACROSS)
    figure = new_figure(9.6, 2.7 * rows)
    axes = figure.subplots(rows, _ACROSS, squeeze=False, sharey=True).flatten().tolist()
    for unused in axes[1 + len(options) :]:
        unused.set_visible(False)
    _points(axes[0], result, list(range(len(result.trials))))
    best = np.maximum if result.mode == "max" else np.minimum
    known = [(k, trial.value) for k, trial in enumerate(result.trials) if trial.state == "complete"]
    if known:
        places, values = zip(*known, strict=True)
        axes[0].step(places, best.accumulate(values), where="post", color=ORANGE, linewidth=1.2, label="best so far")
    axes[0].set(xlabel="trial", title="History")
    axes[0].legend(frameon=False, fontsize=8)
    for of_option, option in zip(axes[1:], options, strict=False):
        # A trial that failed before it had all values is not drawn.
        tried = [trial.values.get(option, found[option]) for trial in result.trials]
        _points(of_option, result, _places(of_option, tried))
        of_option.set(xlabel=option)
    for first in axes[::_ACROSS]:
        first.set_ylabel(result.monitor)
    return figure


def _points(axes: Axes, result: SearchResult, places: Sequence[float]) -> None:
    plain_axes(axes)
    for state, color, marker in (("complete", BLUE, "o"), ("pruned", GRAY, "x")):
        chosen = [
            (place, trial.value)
            for place, trial in zip(places, result.trials, strict=True)
            if trial.state == state and trial.value is not None
        ]
        if chosen:
            across, values = zip(*chosen, strict=True)
            axes.scatter(across, values, s=22, color=color, marker=marker, label=state, alpha=0.8)
    best = result.trials[result.best_trial]
    axes.scatter(
        [places[result.best_trial]], [best.value or 0.0], s=70, facecolors="none", edgecolors=ORANGE, linewidths=1.6
    )


def _places(axes: Axes, tried: Sequence[Any]) -> list[float]:
    """Where the values of an option are on the axis: numbers in place, everything else in a row."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in tried):
        if min(tried) > 0 and max(tried) / min(tried) >= 10**_DECADES:
            axes.set_xscale("log")
        return [float(value) for value in tried]
    names = sorted({str(value) for value in tried})
    axes.set_xticks(range(len(names)), [shortened(name, 12) for name in names], fontsize=8)
    axes.set_xlim(-0.5, len(names) - 0.5)
    return [float(names.index(str(value))) for value in tried]
