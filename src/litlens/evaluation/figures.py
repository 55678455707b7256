"""Figures of metrics: each function draws numbers into a matplotlib Figure."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from litlens.evaluation.calibration import Reliability
from litlens.evaluation.scores import ClassMetrics, PrecisionRecall
from litlens.evaluation.style import (
    BLUE,
    GRAY,
    INK,
    ORANGE,
    PALETTE,
    house_style,
    new_figure,
    percent,
    plain_axes,
    shortened,
)

_NUMBERED = 20  # classes up to which a confusion matrix has a number in every cell
_TICKS = 32  # class names that an axis has room for
_CELLS = 256  # in a row that are large enough to be seen


@house_style
def confusion_matrix_figure(
    counts: ArrayLike, class_names: Sequence[str], *, title: str = "Confusion matrix", small: bool = False
) -> Figure:
    """Counts `(K, K)`, rows labels and columns predictions, colored by the fraction of each row.

    Up to 20 classes every cell shows its count; with more only the colors are left, on a scale on which single
    mistakes are visible, and the axes name as many classes as fit. Above 256 classes, a cell shows the largest fraction
    of several rows and columns. A `small` one can be read as a card of TensorBoard; its colors have no scale.
    """
    table = np.asarray(counts, dtype=np.int64)
    classes = len(class_names)
    fractions = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    numbered = classes <= _NUMBERED
    side = float(np.clip(1.2 + 0.27 * classes, 3.6, 4.4) if small else np.clip(2.2 + 0.42 * classes, 4.2, 8.5))
    # Its layout knows that the cells are square.
    figure = new_figure(side if small else side + 1.2, side, layout="compressed")
    axes = figure.add_subplot()
    block = -(-classes // _CELLS)
    places = np.arange(0, classes, block)
    cells = np.maximum.reduceat(np.maximum.reduceat(fractions, places, axis=0), places, axis=1)
    end = len(places) * block - 0.5
    # Mistakes are a few percent: on a linear scale they would be invisible.
    image = axes.imshow(np.sqrt(cells), cmap="Blues", vmin=0, vmax=1, extent=(-0.5, end, end, -0.5))
    accuracy = np.trace(table) / max(table.sum(), 1)
    scored = f"{100 * accuracy:.2f} % accuracy, {table.sum():,} images"
    axes.set_title(f"{title}\n{scored}" if small else f"{title}: {scored}", pad=10)
    axes.set_xlabel("predicted" if block == 1 else f"predicted; a cell is the largest of {block} × {block} classes")
    axes.set_ylabel("label")
    _name_classes(axes, class_names, most=_TICKS // 2 if small else _TICKS)
    if numbered:
        _write_counts(axes, table, fractions)
    if small:
        return figure
    bar = figure.colorbar(image, ax=axes, fraction=0.045, pad=0.03, ticks=np.sqrt([0, 0.01, 0.1, 0.25, 0.5, 1]))
    bar.ax.set_yticklabels(["0", "1 %", "10 %", "25 %", "50 %", "100 %"])
    bar.set_label("fraction of the label's images")
    bar.ax.spines["outline"].set_visible(False)
    return figure


@house_style
def learning_curves_figure(
    history: Sequence[Mapping[str, float]], kinds: Sequence[Literal["loss", "accuracy"]] = ("loss", "accuracy")
) -> Figure:
    """Loss above accuracy, or one of them, over the epochs: training and validation, its best epoch marked.

    Each row of `history` holds `epoch` and any of `loss/train`, `loss/val`, `accuracy/train` and
    `accuracy/val`; what is missing or not finite leaves a gap.
    """
    figure = new_figure(4.4, 3.0 * len(kinds), layout=None)
    # Margins in inches that every label fits into: to measure the labels takes twice as long as to draw them.
    left, right, bottom, top = 0.68 / 4.4, 1 - 0.1 / 4.4, 0.45 / (3 * len(kinds)), 1 - 0.3 / (3 * len(kinds))
    figure.subplots_adjust(left, bottom, right, top, hspace=(0.45 + 0.3) / (3 - 0.45 - 0.3))
    for kind, axes in zip(kinds, figure.subplots(len(kinds), squeeze=False).flat, strict=True):
        _curves(axes, history, kind, best=min if kind == "loss" else max)
    return figure


@house_style
def reliability_figure(table: Reliability, *, error: float) -> Figure:
    """A reliability diagram: accuracy against confidence by bin, and below the fraction of samples in each bin.

    `error` is the expected calibration error, for the title.
    """
    figure = new_figure(4.6, 5.0)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3.4, 1))
    count, confidence, accuracy = table
    left, width = np.linspace(0, 1, len(count), endpoint=False), 1 / len(count)
    plain_axes(upper)
    plain_axes(lower)
    upper.bar(left, accuracy, width, align="edge", color="#9CC9E3", edgecolor="white", label="accuracy")
    upper.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=(0, (4, 3)), label="perfectly calibrated")
    upper.plot(confidence, accuracy, "o", color=ORANGE, markersize=4, label="at the bin's mean confidence")
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    upper.set_title(f"Expected calibration error: {percent(error)}", pad=10)
    upper.legend(loc="upper left", frameon=False, handlelength=1.6)
    lower.bar(left, count / max(int(count.sum()), 1), width, align="edge", color=GRAY, edgecolor="white")
    lower.set(xlabel="confidence", ylabel="fraction of\nimages", ylim=(0, None))
    return figure


@house_style
def per_class_figure(table: Sequence[ClassMetrics], *, title: str = "Classes", most: int = 30) -> Figure:
    """Precision, recall and F1 of the `most` classes with the lowest F1, the lowest on top, and how many samples."""
    rows = sorted(table, key=lambda row: row.f1)[:most]
    figure = new_figure(4.4, 1.1 + 0.2 * max(len(rows), 4))
    axes = figure.add_subplot()
    plain_axes(axes)
    axes.grid(axis="x", color="#E8E8E8", linewidth=0.8)
    places = np.arange(len(rows))
    for kind, color, marker in (("precision", BLUE, "|"), ("recall", ORANGE, "|"), ("f1", INK, "o")):
        values = [getattr(row, kind) for row in rows]
        name = "F1" if kind == "f1" else kind
        size, width = (4.5, 0) if kind == "f1" else (9, 2.2)
        axes.plot(
            values, places, marker, color=color, markersize=size, markeredgewidth=width, label=name, clip_on=False
        )
    axes.hlines(
        places,
        [min(row.precision, row.recall) for row in rows],
        [max(row.precision, row.recall) for row in rows],
        color="#CFCFCF",
        linewidth=2,
        zorder=1,
    )
    axes.set_yticks(places, [shortened(row.name) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    lowest = min((min(row.precision, row.recall) for row in rows), default=0.0)
    axes.set_xlim(max(0.0, lowest - 0.05 * (1 - lowest) - 0.01), 1.01)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")
    for place, row in zip(places, rows, strict=True):
        axes.annotate(
            f"{row.labeled:,}",
            (1.0, float(place)),
            (6, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center",
            color=GRAY,
            fontsize=8,
        )
    which = f"the {len(rows)} of {len(table)} classes with the lowest F1" if len(rows) < len(table) else "classes by F1"
    axes.set_title(f"{title}\n{which}", pad=24)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1), ncols=3, frameon=False, borderaxespad=0.1)
    return figure


@house_style
def precision_recall_figure(curves: Sequence[PrecisionRecall], *, title: str = "Precision and recall") -> Figure:
    """All curves: the classes with the lowest average precision in color and with their names, the others in gray."""
    figure = new_figure(4.4, 5.4)
    axes = figure.add_subplot()
    plain_axes(axes)
    worst = sorted(curves, key=lambda curve: curve.average_precision)
    named, others = worst[: len(PALETTE)], worst[len(PALETTE) :]
    if others:
        steps = [np.column_stack([curve.recall.repeat(2)[1:], curve.precision.repeat(2)[:-1]]) for curve in others]
        label = f"{len(others)} others"
        axes.add_collection(LineCollection(steps, color=GRAY, linewidth=0.7, alpha=0.6, label=label), autolim=False)
    for curve, color in reversed(list(zip(named, PALETTE, strict=False))):
        label = f"{shortened(curve.name)}  {100 * curve.average_precision:.2f} %"
        axes.step(curve.recall, curve.precision, where="post", color=color, linewidth=1.6, label=label)
    mean = np.mean([curve.average_precision for curve in curves]) if curves else np.nan
    # The mistakes of a good network lie in the upper right corner: show that, and more only if needed.
    missing = 1 - min((curve.average_precision for curve in curves), default=0.0)
    start = max(0.0, np.floor(10 * (0.99 - 20 * missing)) / 10)
    limits = (start, 1 + 0.01 * (1 - start))
    axes.set(xlim=limits, ylim=limits, xlabel="recall", ylabel="precision")
    axes.set_title(f"{title}\nmean average precision {percent(float(mean))}", pad=10)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        handles[::-1],
        labels[::-1],
        title="average precision, lowest first",
        loc="upper left",
        bbox_to_anchor=(-0.02, -0.14),
        ncols=1 if max((len(curve.name) for curve in named), default=0) > 7 else 2,
        frameon=False,
        alignment="left",
    )
    return figure


def _name_classes(axes: Axes, class_names: Sequence[str], *, most: int) -> None:
    classes = len(class_names)
    places = range(0, classes, -(-classes // most))
    names = [shortened(class_names[place]) for place in places]
    upright = max(map(len, names)) * classes <= 60
    axes.set_xticks(places, names, rotation=0 if upright else 90)
    axes.set_yticks(places, names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if classes <= _NUMBERED:
        # Not a grid of minor ticks, which looks the same and doubles the time.
        edges = np.arange(1, classes) - 0.5
        axes.vlines(edges, -0.5, classes - 0.5, color="white", linewidth=1.5)
        axes.hlines(edges, -0.5, classes - 0.5, color="white", linewidth=1.5)


def _write_counts(axes: Axes, table: NDArray[np.int64], fractions: NDArray[np.float64]) -> None:
    size = float(np.clip(12 - 0.25 * len(table) - 0.3 * len(str(table.max())), 6, 11))
    for (row, column), count in np.ndenumerate(table):
        if count:
            color = "white" if fractions[row, column] > 0.3 else INK
            text = axes.text(column, row, f"{count}", ha="center", va="center", color=color, fontsize=size)
            text.set_in_layout(False)  # within the axes, so the layout can skip it


def _curves(axes: Axes, history: Sequence[Mapping[str, float]], what: str, *, best: Callable[..., Any]) -> None:
    plain_axes(axes)
    epochs = np.array([row["epoch"] for row in history], dtype=float)
    few = len(history) <= 40
    title = what.capitalize()
    for split, color, name in (("train", BLUE, "training"), ("val", ORANGE, "validation")):
        values = np.array([row.get(f"{what}/{split}", np.nan) for row in history], dtype=float)
        values[~np.isfinite(values)] = np.nan
        axes.plot(epochs, values, "o-" if few else "-", color=color, linewidth=1.6, markersize=3.2, label=name)
        if split == "val" and np.isfinite(values).any():
            place = int(np.nanargmin(values) if best is min else np.nanargmax(values))
            axes.plot(
                epochs[place],
                values[place],
                "o",
                color="none",
                markeredgecolor=color,
                markersize=9,
                zorder=3,
            )
            value = f"{100 * values[place]:.2f} %" if what == "accuracy" else f"{values[place]:.4f}"
            title += f": best validation {value}, epoch {epochs[place]:.0f}"
    axes.set_title(title)
    axes.set_xlabel("epoch")
    if what == "accuracy":
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if len(history) == 1:
        axes.set_xlim(epochs[0] - 0.5, epochs[0] + 0.5)
    axes.legend(frameon=False)
