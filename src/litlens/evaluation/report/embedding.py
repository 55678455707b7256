"""Images and figures as `data:` addresses, so that a page is one file; equal images give equal text."""

from base64 import b64encode
from io import BytesIO

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from litlens.evaluation.style import pixels, svg

_LARGEST_SVG = 150_000  # characters; a figure of many lines is smaller as pixels
_SMALL = 64  # images up to this side keep every pixel; the page enlarges them


def embedded_figure(figure: Figure) -> str:
    """A figure as SVG, or where that is large as PNG."""
    drawing = svg(figure)
    if len(drawing) <= _LARGEST_SVG:
        return _address("svg+xml", drawing.encode())
    figure.set_dpi(180)
    return _encoded(Image.fromarray(pixels(figure)).quantize(256), "PNG", optimize=True)


def embedded_image(pixels: NDArray[np.uint8], *, side: int, quality: int = 78) -> str:
    """A pixels uint8 (h, w, 1 or 3) at most `side` pixels high and wide: PNG where it is small, otherwise JPEG."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    image.thumbnail((side, side))
    if max(image.size) <= _SMALL:
        return _encoded(image, "PNG", optimize=True)
    return _encoded(image, "JPEG", quality=quality, optimize=True)


def _encoded(image: Image.Image, kind: str, **options: int | bool) -> str:
    file = BytesIO()
    image.save(file, kind, **options)
    return _address(kind.lower(), file.getvalue())


def _address(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{b64encode(content).decode()}"
