"""The style of all figures, and their conversion to pixels or SVG, without changing any global state.

Figures are made without pyplot, on the Agg canvas and under matplotlib's defaults, so neither rcParams nor a
notebook's backend changes a pixel. The colors are Okabe and Ito's, which color-blind readers can distinguish.
"""

import io
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, Literal, ParamSpec, TypeVar

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from numpy.typing import NDArray

BLUE, ORANGE, GREEN, GRAY, INK = "#0072B2", "#D55E00", "#009E73", "#9A9A9A", "#2B2B2B"
PALETTE = (ORANGE, BLUE, GREEN, "#E69F00", "#CC79A7", "#56B4E9")

_STYLE = {
    "font.size": 9.0,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.edgecolor": "#B5B5B5",
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": "#B5B5B5",
    "ytick.color": "#B5B5B5",
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.parse_math": False,  # a class named $x$ is a class name
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "litlens",  # else the ids differ from drawing to drawing
}

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def house_style(draw: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Run a drawing function under matplotlib's defaults and `_STYLE`, independent of the rcParams."""

    @wraps(draw)
    def drawn(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        style: dict[Any, Any] = {**matplotlib.rcParamsDefault, **_STYLE}
        style.pop("backend")  # setting it would load pyplot
        with matplotlib.rc_context(style):
            return draw(*args, **kwargs)

    return drawn


def new_figure(
    width: float, height: float, *, layout: Literal["constrained", "compressed"] | None = "constrained"
) -> Figure:
    """An empty figure of a size in inches, at 160 dpi: twice the width of a card of TensorBoard for 4.4 inches."""
    figure = Figure(figsize=(width, height), dpi=160, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def plain_axes(axes: Axes) -> None:
    """Reduce the axes' frame to two sides and a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#E8E8E8", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)


def percent(value: float, digits: int = 2) -> str:
    """A proportion in percent; NaN is a dash."""
    return "–" if value != value else f"{100 * value:.{digits}f} %"


def shortened(name: str, limit: int = 18) -> str:
    """Replace the middle of a long name by an ellipsis."""
    half = limit // 2  # names that begin alike often differ at the end, so the middle goes
    return name if len(name) <= limit else name[: half - 1] + "…" + name[-half:]


@house_style  # ticks are created here
def pixels(figure: Figure) -> NDArray[np.uint8]:
    """The figure as an image `(H, W, 3)`; letters that matplotlib's own font lacks become boxes."""
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        canvas.draw()  # type: ignore[no-untyped-call]
    image: NDArray[np.uint8] = np.array(canvas.buffer_rgba())[:, :, :3]  # type: ignore[no-untyped-call]
    return image


@house_style
def svg(figure: Figure) -> str:
    """The figure as SVG, the same text for the same figure; the viewer chooses the font."""
    for axes in figure.axes:
        for mesh in axes.findobj(QuadMesh):
            mesh.set_rasterized(True)  # a color bar is 256 paths otherwise
    text = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()
