"""From any image file to pixels. What a file is follows from its content, never from its name."""

import errno
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from litlens.data.preprocessing import Pixels
from litlens.errors import UserError

# Formats that say by their first bytes what they are. Left out are those that are none of an image's
# business (PDF), that start another program (EPS: Ghostscript), or that have no such bytes (TGA).
_FORMATS = (
    "AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "QOI", "TIFF", "WEBP",
)  # fmt: skip
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BadImage(UserError):  # noqa: N818
    """A file that is not a whole image: `name` says which, `reason` why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class UnreadableImage(BadImage):
    """A file that is there but could not be read: it says nothing of the image, and may pass."""


def read_image(source: Path | bytes, *, name: str | None = None, channels: int | None = None) -> Pixels:
    """Read a whole image to uint8 (h, w, 3) RGB, or (h, w, 1) where it is gray.

    Turned as its EXIF data say; what is transparent stands on white; 16-bit gray keeps its range; of an
    animation, the first frame. Floating-point pixels, whose range nobody knows, are refused.

    Args:
        source: A file, or its bytes.
        name: What to call it in an error; by default its path.
        channels: Convert to 1 (gray) or 3 (RGB) channels.

    Raises:
        BadImage: It is not there, or is no image, a damaged one, or one of more than
        `Image.MAX_IMAGE_PIXELS`; `UnreadableImage` where the disk or the system gave an error.
    """
    name = name or (str(source) if isinstance(source, Path) else "image")
    try:
        # Not by its path: Pillow maps some uncompressed files, and a file that shrinks later would kill the
        # process.
        data = source if isinstance(source, bytes) else _content(source, name=name)
        with Image.open(BytesIO(data), formats=_known_formats()) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                raise BadImage(name, f"{image.width}x{image.height} pixels are more than an image should have")
            image.load()
            pixels = _pixels(image, name=name)
    except (BadImage, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise BadImage(name, "not an image" if data else "an empty file") from error
    # Pillow's decoders tell damage by OSError, SyntaxError, ValueError, struct.error, EOFError, IndexError
    # and more.
    except Exception as error:
        raise BadImage(name, " ".join(str(error).split()) or type(error).__name__) from error
    if channels is None or pixels.shape[2] == channels:
        return pixels
    converted = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
    return np.asarray(converted.convert("L" if channels == 1 else "RGB")).reshape(*pixels.shape[:2], channels)


def _content(path: Path, *, name: str) -> bytes:
    try:
        if path.exists() and not path.is_file():  # reading a pipe would wait for ever
            raise BadImage(name, "not a regular file")
        return path.read_bytes()
    except OSError as error:
        # A link to nowhere, or round in a circle, is as lasting as its content would be.
        kind = BadImage if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP) else UnreadableImage
        raise kind(name, error.strerror or str(error)) from error


def _known_formats() -> list[str]:
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def _pixels(image: Image.Image, *, name: str) -> Pixels:
    """RGB or gray pixels of a loaded image, turned upright."""
    turn = _TURNS.get(_orientation(image))
    if image.mode.startswith("I"):
        converted = _from_integers(image, name=name)
    elif image.mode == "F":
        raise BadImage(name, "floating-point pixels, whose range is not known; save it with 8 or 16 bits")
    elif image.has_transparency_data:
        gray = image.mode in ("L", "LA", "La", "1")
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        converted = Image.alpha_composite(white, layer).convert("L" if gray else "RGB")
    else:
        converted = image.convert("L" if image.mode in ("1", "L") else "RGB")
    if turn is not None:
        converted = converted.transpose(turn)
    pixels = np.asarray(converted)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _from_integers(image: Image.Image, *, name: str) -> Image.Image:
    """16-bit gray (modes I;16 and I) to 8 bits by its range: Pillow's own conversion clips at 255."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65_535:
        raise BadImage(name, "integer pixels beyond 16 bits; save it with 8 or 16 bits")
    gray = np.round(values / 257).astype(np.uint8)
    if isinstance(transparent := image.info.get("transparency"), int):
        gray[values == transparent] = 255
    return Image.fromarray(gray)


def _orientation(image: Image.Image) -> int:
    # Damaged EXIF data make no damaged image; it is then taken as it lies.
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        return 1
