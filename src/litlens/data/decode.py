"""Read images (files, bytes, PIL images, arrays) to uint8 pixels. The format follows from the content, not the name."""

import errno
import stat
import warnings
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from litlens.data.preprocessing import Pixels, Resize
from litlens.errors import UserError
from litlens.files import user_path

ImageSource = str | Path | bytes | Image.Image | NDArray[Any]
# The lowest and the highest value of an image of more than 8 bits; they become 0 and 255.
ValueRange = tuple[float, float]

# Formats that are recognized by their first bytes. Left out are documents (PDF), formats that start another program
# (EPS: Ghostscript), and formats without such bytes (TGA).
_FORMATS = ("AVIF", "BMP", "DIB", "GIF", "HEIF", "ICO", "JPEG2000", "PNG", "PPM", "QOI", "TIFF", "WEBP")
_JPEG = b"\xff\xd8\xff"
_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
# Pixels above which a JPEG is decoded at 1/2 of its size, above four times as many at 1/4, and above the limit refused:
# phones write 200 megapixels, and libjpeg keeps up to six bytes a pixel of a progressive file at any scale.
_LARGE_JPEG = 50_000_000
_JPEG_LIMIT = 500_000_000
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
# A JPEG is decoded at 1/2, 1/4 or 1/8 of its size if that leaves at least so many times the pixels, along each axis, of
# what it is then resized to: Pillow's `reducing_gap`, whose documentation calls 2 nearly indistinguishable.
_GAP = 2
_QUARTER_TURNS = [_TURNS[orientation] for orientation in (5, 6, 7, 8)]
# Images are decoded in threads, and warnings.catch_warnings changes the filters of the process.
_opening = Lock()


class BadImage(UserError):  # noqa: N818
    """The source called `name` is not a complete image, for a `reason`.

    `temporary`: The file exists but could not be read; it may be intact, and the next try may succeed.
    """

    def __init__(self, name: str, reason: str, *, temporary: bool = False) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason
        self.temporary = temporary

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class Decoded(NamedTuple):
    """An image with what its file says: `size` (h, w) upright, and the range of values above 8 bits."""

    pixels: Pixels
    value_range: ValueRange | None
    size: tuple[int, int]


def read_image(
    source: ImageSource,
    *,
    name: str | None = None,
    channels: int | None = None,
    value_range: ValueRange | None = None,
) -> Pixels:
    """Read a complete image to uint8 (h, w, 3) RGB, or (h, w, 1) where it is gray.

    The image is turned upright by its EXIF orientation. Transparent pixels are put on white. Of an animation, the
    first frame is read. Gray values of 16 bits are divided by 257 unless `value_range` is given; a warning reports
    the range of an image whose values need fewer than 16 bits. A JPEG of more than 50 megapixels is read at half its
    size, of more than 200 at a quarter. HEIC files need the package pillow-heif.

    Args:
        source: A path, the bytes of a file, a PIL image, or an array (h, w), (h, w, 1), (h, w, 3) or (h, w, 4).
        name: The name of the image in an error; by default its path.
        channels: Convert to 1 (gray) or 3 (RGB) channels.
        value_range: Values of an image of more than 8 bits that become 0 and 255; others are clipped. Needed
            for floating-point values. Images of 8 bits are read as they are.

    Raises:
        BadImage: The source is missing, damaged, too large, or not an image, or it could not be read.
    """
    decoded = decode_image(source, name=name, channels=channels, value_range=value_range)
    if value_range is None and (better := narrow_range(decoded.value_range)):
        warnings.warn(f"{_name(source, name)}: {better}", stacklevel=2)
    return decoded.pixels


def decode_image(
    source: ImageSource,
    *,
    name: str | None = None,
    channels: int | None = None,
    value_range: ValueRange | None = None,
    shorter_side: int | None = None,
) -> Decoded:
    """Read an image as `read_image` does, without its warning.

    An image whose shorter side is above `shorter_side` is brought to that, its aspect ratio kept.
    """
    name = _name(source, name)
    if isinstance(source, str | Path):
        source = read_file(user_path(source), name=name)
    try:
        if isinstance(source, np.ndarray):
            pixels, values = _from_array(source, value_range)
            size = pixels.shape[0], pixels.shape[1]
        elif isinstance(source, Image.Image):
            pixels, values = _from_pillow(source, value_range)
            size = pixels.shape[0], pixels.shape[1]
        elif isinstance(source, bytes):
            pixels, values, size = _from_bytes(source, value_range, shorter_side)
        else:
            raise TypeError(f"{type(source).__name__} is not a path, bytes, a PIL image or a NumPy array")
    except MemoryError:
        raise
    # Errors of the functions below, and those of Pillow's decoders: OSError, SyntaxError, ValueError, struct.error,
    # EOFError, IndexError and more.
    except Exception as error:
        raise BadImage(name, " ".join(str(error).split()) or type(error).__name__) from error
    if channels not in (None, pixels.shape[2]):
        image = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
        pixels = np.asarray(image.convert("L" if channels == 1 else "RGB")).reshape(*pixels.shape[:2], channels)
    if shorter_side is not None and min(pixels.shape[:2]) > shorter_side:
        scale = shorter_side / min(pixels.shape[:2])
        height, width = (max(shorter_side, round(side * scale)) for side in pixels.shape[:2])
        pixels = Resize((height, width), "squash")(pixels)
    return Decoded(pixels, values, size)


def read_file(path: Path, *, name: str) -> bytes:
    """Read the bytes of an image file, called `name` in an error. Raises BadImage where it cannot be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would wait forever
            raise BadImage(name, "not a regular file")
        return path.read_bytes()
    except OSError as error:
        # Broken and circular links stay so.
        lasting = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
        raise BadImage(name, error.strerror or str(error), temporary=not lasting) from error


def narrow_range(values: ValueRange | None) -> str | None:
    """The warning for 16-bit images whose values fit into 15 bits or fewer; None for others."""
    if values is None or not 0 < values[1] < 2**15:
        return None
    low, high = (int(value) for value in values)
    return (
        f"16-bit values from {low} to {high} only become the gray levels {round(low / 257)} to {round(high / 257)} "
        f"of 255; give value_range: [0, {2 ** high.bit_length() - 1}] to use all of them"
    )


def _name(source: ImageSource, name: str | None) -> str:
    return name or (str(source) if isinstance(source, str | Path) else "image")


def _from_bytes(data: bytes, value_range: ValueRange | None, shorter_side: int | None) -> Decoded:
    if not data:
        raise ValueError("an empty file")
    if data.startswith(_PNG) and data.rfind(_PNG_END) < 0:  # Pillow reads the rows that there are
        raise ValueError("image file is truncated (it lacks the end chunk of a PNG)")
    if data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS and b"avif" not in data[12:64]:
        _register_heic()
    with _opened(data) as image:
        stored = image.size
        if isinstance(image, JpegImageFile):
            number = image.width * image.height
            _check_size(image, limit=_JPEG_LIMIT)
            scale = 1 if number <= _LARGE_JPEG else 2 if number <= 4 * _LARGE_JPEG else 4
            if shorter_side is not None:
                scale = max(scale, min(stored) // (_GAP * shorter_side))
            if scale > 1:  # Pillow takes the next lower power of two
                image.draft(None, (image.width // scale, image.height // scale))
        pixels, values = _from_pillow(image, value_range)
        turned = _TURNS.get(_orientation(image)) in _QUARTER_TURNS
    return Decoded(pixels, values, stored if turned else stored[::-1])


def _opened(data: bytes) -> Image.Image:
    # From memory: Pillow maps some uncompressed files, and a file that shrinks later would kill the process.
    file = BytesIO(data)
    try:
        if data.startswith(_JPEG):
            # Image.open refuses large files before they can be decoded at a smaller scale.
            return JpegImageFile(file)
        Image.init()
        with _opening, warnings.catch_warnings():
            # Pillow warns between one and two times its limit; `_from_pillow` refuses these images.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(file, formats=[name for name in _FORMATS if name in Image.OPEN])
    except (UnidentifiedImageError, SyntaxError) as error:
        raise ValueError("not an image") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{error}; save it with fewer pixels") from error


def _check_size(image: Image.Image, *, limit: int | None) -> None:
    if limit is not None and image.width * image.height > limit:
        raise ValueError(
            f"{image.width}x{image.height} pixels are more than the limit of {limit:,}; save it with fewer"
        )


def _register_heic() -> None:
    try:
        import pillow_heif  # an extra: LGPL, and rarely needed
    except ImportError as error:
        raise ValueError("a HEIC file; pip install pillow-heif to read it, or save it as JPEG") from error
    pillow_heif.register_heif_opener()


def _from_pillow(image: Image.Image, value_range: ValueRange | None) -> tuple[Pixels, ValueRange | None]:
    """RGB or gray pixels of a PIL image, turned upright."""
    _check_size(image, limit=Image.MAX_IMAGE_PIXELS)
    image.load()
    turn = _TURNS.get(_orientation(image))
    values = None
    if image.mode.startswith("I") or image.mode == "F":
        scaled, values = _scaled(np.asarray(image), value_range)
        converted = Image.fromarray(scaled)
        if isinstance(transparent := image.info.get("transparency"), int):
            white = Image.new("L", converted.size, "white")
            converted = Image.composite(white, converted, Image.fromarray(np.asarray(image) == transparent))
    elif image.has_transparency_data:
        gray = image.mode in ("L", "LA", "La", "1")
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        converted = Image.alpha_composite(white, layer).convert("L" if gray else "RGB")
    else:
        wanted = "L" if image.mode in ("1", "L") else "RGB"
        converted = image if image.mode == wanted else image.convert(wanted)  # which would copy it
    if turn is not None:
        converted = converted.transpose(turn)
    pixels = np.asarray(converted)
    return pixels[..., None] if pixels.ndim == 2 else pixels, values


def _from_array(array: NDArray[Any], value_range: ValueRange | None) -> tuple[Pixels, ValueRange | None]:
    if array.ndim not in (2, 3) or array.shape[2:] not in ((), (1,), (3,), (4,)) or 0 in array.shape:
        raise ValueError(f"an array of shape {array.shape}; it must be (h, w), or (h, w, C) with C 1, 3 or 4")
    array = array[..., None] if array.ndim == 2 else array
    values = None
    if array.dtype == np.uint8:
        pixels = np.ascontiguousarray(array)
    elif array.dtype == np.bool_:
        pixels = array.astype(np.uint8) * 255
    elif np.issubdtype(array.dtype, np.integer) or np.issubdtype(array.dtype, np.floating):
        pixels, values = _scaled(array, value_range)
    else:
        raise ValueError(f"an array of {array.dtype}; it must hold integers or floating-point numbers")
    if pixels.shape[2] == 4:
        pixels, _ = _from_pillow(Image.fromarray(pixels), None)
    return pixels, values


def _scaled(values: NDArray[Any], value_range: ValueRange | None) -> tuple[Pixels, ValueRange]:
    """Integers or floating-point numbers as 8 bits, and their range: Pillow's own conversion clips at 255."""
    seen = float(values.min()), float(values.max())
    if not np.isfinite(seen).all():
        raise ValueError("values that are not finite; replace them and save it again")
    if value_range is None:
        if np.issubdtype(values.dtype, np.floating):
            raise ValueError(
                f"floating-point values from {seen[0]:g} to {seen[1]:g}, whose range is not known; give value_range"
            )
        if seen[0] < 0 or seen[1] > 65_535:
            raise ValueError(f"integers from {seen[0]:.0f} to {seen[1]:.0f}, beyond 16 bits; give value_range")
    low, high = value_range or (0, 65_535)
    levels = np.clip((values.astype(np.float64) - low) * (255 / (high - low)), 0, 255)
    return np.round(levels.round(9)).astype(np.uint8), seen


def _orientation(image: Image.Image) -> int:
    # An image with damaged EXIF data is read as it is stored.
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        return 1
