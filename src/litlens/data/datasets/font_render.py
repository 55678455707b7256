"""Characters drawn from font files, centered and scaled as Chars74K's images of computer fonts are."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFont

from litlens.data.preprocessing import Pixels
from litlens.errors import UserError, listed

# Chars74K's image size, and the box that a character is scaled to, as measured on the archive.
_SIZE = 128
_INK_WIDTH, _INK_HEIGHT = _SIZE * 20 / 28, _SIZE * 22 / 28
# Pixels per em before scaling: well above the final size, so that scaling up is rare.
_EM = 256


class FontError(Exception):
    """A font that cannot be used: `reason` is short, to be counted, and `detail` says more."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason} ({detail})")
        self.reason = reason
        self.detail = detail


def font_files(folder: Path | None) -> dict[Path, str]:
    """The font files (.ttf, .otf) below `folder`, sorted, each with its name; of this machine where it is None.

    The machine's are those in the system's font folders and those that come with matplotlib.
    """
    found: Iterable[Path]
    if folder is None:
        import matplotlib
        from matplotlib.font_manager import findSystemFonts

        found = {*map(Path, findSystemFonts()), *Path(matplotlib.get_data_path(), "fonts").rglob("*")}
    elif folder.is_dir():
        found = folder.rglob("*")
    else:
        raise UserError(f"data.folder: {folder} is not a folder of font files")
    # Files that begin with a dot are metadata that macOS writes next to a font.
    fonts = sorted(p for p in found if p.suffix.lower() in (".ttf", ".otf") and p.name[0] != "." and p.is_file())
    if not fonts:
        raise UserError(f"data.folder: no .ttf or .otf file in {folder or 'the font folders of this machine'}")
    if folder is not None:
        return {path: path.relative_to(folder).as_posix() for path in fonts}
    number = Counter(path.name for path in fonts)
    return {path: path.name if number[path.name] == 1 else path.as_posix() for path in fonts}


def draw_font(path: Path, characters: Sequence[str]) -> list[Pixels]:
    """Draw the characters in order: uint8 (128, 128, 1), black on white, each centered and scaled to the same box.

    Raises:
        FontError: The file is not a font, lacks a character, draws symbols, or draws two characters alike.
    """
    _check_glyphs(path, characters)
    try:
        # Basic layout: the complex one joins and replaces glyphs, and is not part of every Pillow.
        font = ImageFont.truetype(str(path), size=_EM, layout_engine=ImageFont.Layout.BASIC)
        drawn = [_drawn(font, character) for character in characters]
    except (OSError, ValueError) as error:
        raise FontError("cannot be read", str(error)) from error
    first_with: dict[bytes, str] = {}
    for character, image in zip(characters, drawn, strict=True):
        twin = first_with.setdefault(image.tobytes(), character)
        if twin != character:
            raise FontError("draws two characters alike", f"{twin} and {character}")
    return drawn


def _drawn(font: ImageFont.FreeTypeFont, character: str) -> Pixels:
    left, top, right, bottom = (round(edge) for edge in font.getbbox(character))
    drawn = Image.new("L", (max(1, right - left), max(1, bottom - top)))
    ImageDraw.Draw(drawn).text((-left, -top), character, fill=255, font=font)
    box = drawn.getbbox()
    if box is None:
        raise FontError("lacks a character", f"draws nothing for {character}")
    ink = drawn.crop(box)
    scale = min(_INK_WIDTH / ink.width, _INK_HEIGHT / ink.height)
    width, height = (max(1, round(side * scale)) for side in ink.size)
    image = Image.new("L", (_SIZE, _SIZE))
    image.paste(ink.resize((width, height), Image.Resampling.BICUBIC), ((_SIZE - width) // 2, (_SIZE - height) // 2))
    return np.asarray(ImageChops.invert(image))[..., None]


def _check_glyphs(path: Path, characters: Sequence[str]) -> None:
    """Refuse a font with symbols in place of characters, or without one: FreeType would draw an empty box."""
    from fontTools.agl import toUnicode  # type: ignore[import-untyped]
    from fontTools.ttLib import TTFont  # type: ignore[import-untyped]

    try:
        with TTFont(path, lazy=True) as font:
            mapping = font.getBestCmap() or {}
    # fontTools raises whatever a damaged table leads to: struct.error, KeyError, AssertionError, its own.
    except Exception as error:
        raise FontError("cannot be read", str(error) or type(error).__name__) from error
    glyphs = {character: mapping.get(ord(character), ".notdef") for character in characters}
    if lacking := [character for character, glyph in glyphs.items() if glyph == ".notdef"]:
        raise FontError("lacks a character", listed(lacking))
    # A symbol font's glyph has another character's name: `infinity` in place of 1. U+F6xx and U+F7xx are Adobe's
    # own codes for variants: small capitals, old-style figures.
    meanings = {character: toUnicode(glyph) for character, glyph in glyphs.items()}
    symbols = [
        f"{glyphs[character]} for {character}"
        for character, meaning in meanings.items()
        if len(meaning) == 1 and not "\uf600" <= meaning <= "\uf7ff" and meaning.casefold() != character.casefold()
    ]
    if symbols:
        raise FontError("draws symbols for characters", listed(symbols))
