"""How the figures of litlens look, and how they become an image or a drawing, touching nothing global.

Figures are made without pyplot, on the Agg canvas and under matplotlib's own defaults, so neither a person's
rcParams nor a notebook's backend changes a pixel. Colors are Okabe and Ito's, which color-blind readers can
tell apart.
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
    "svg.fonttype": "none",  # letters stay letters
    "svg.hashsalt": "litlens",  # without one, every drawing gets ids of its own
}

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def house_style(draw: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Run a drawing function under matplotlib's defaults and `_STYLE`, whatever the rcParams are outside."""

    @wraps(draw)
    def drawn(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        style: dict[Any, Any] = {**matplotlib.rcParamsDefault, **_STYLE}
        style.pop("backend")  # setting it would load pyplot
        with matplotlib.rc_context(style):
            return draw(*args, **kwargs)

    return drawn


def new_figure(width: float, height: float, *, layout: Literal["constrained", "compressed"] = "constrained") -> Figure:
    """An empty figure of so many inches, at 110 dots each."""
    figure = Figure(figsize=(width, height), dpi=110, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def plain_axes(axes: Axes) -> None:
    """Leave of the axes' frame what helps reading: two sides and faint lines."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#E8E8E8", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)


def percent(value: float, digits: int = 2) -> str:
    """A proportion in percent; NaN is a dash."""
    return "–" if value != value else f"{100 * value:.{digits}f} %"


def shortened(name: str, limit: int = 18) -> str:
    """A name without its middle where it is too long."""
    half = limit // 2  # names that begin alike often differ at the end, so the middle goes
    return name if len(name) <= limit else name[: half - 1] + "…" + name[-half:]


@house_style  # ticks are made as late as here
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
    """The figure as an SVG drawing, the same text for the same figure; its letters are set by whoever shows it."""
    for axes in figure.axes:
        for mesh in axes.findobj(QuadMesh):
            mesh.set_rasterized(True)  # a color bar is 256 paths otherwise
    text = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()
