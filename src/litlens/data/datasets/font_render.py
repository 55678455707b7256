"""Characters drawn from font files, centerd and scaled as Chars74K's images of computer fonts are."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFont

from litlens.data.progress import progress
from litlens.errors import UserError

# Chars74K's size, and the box that its ink is scaled to, as measured on the archive.
_SIZE = 128
_INK_WIDTH, _INK_HEIGHT = _SIZE * 20 / 28, _SIZE * 22 / 28
# Pixels per em to draw at before scaling down: well above the size wanted, so that scaling up is rare.
_EM = 256
_SUFFIXES = {".ttf", ".otf"}


class FontError(Exception):
    """A font that cannot be used: `reason` for short, to be counted, and `detail`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason} ({detail})")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class RenderedFonts:
    """The font files below `folder`, or where it is None those on this machine, as a source of images.

    The machine's are those in the system's font folders and those that come with matplotlib.
    """

    characters: Sequence[str]
    folder: Path | None = None

    def files(self) -> list[Path]:
        """The font files (.ttf, .otf), in a stable order."""
        if self.folder is None:
            return sorted(_installed_fonts(), key=lambda path: (path.name, path))
        if not self.folder.is_dir():
            raise UserError(f"data.folder: {self.folder} is not a folder of font files")
        found = sorted(path for path in self.folder.rglob("*") if _is_font(path))
        if not found:
            raise UserError(f"data.folder: no .ttf or .otf file in {self.folder}")
        return found

    def fonts(self) -> Iterator[tuple[str, list[Image.Image] | FontError]]:
        """Each font's name, and its characters in order (gray, dark on white) or why it cannot be used."""
        files = self.files()
        names = _relative_names(files, self.folder) if self.folder else _shortest_names(files)
        twins = _same_content(files)
        for path, name in progress(list(zip(files, names, strict=True)), description="Drawing fonts"):
            try:
                if path in twins:
                    raise FontError("is a copy of another", str(twins[path]))
                yield name, draw_font(path, self.characters)
            except FontError as unsuitable:
                yield name, unsuitable

    def sample_name(self, font: str, label: int) -> str:
        """`DejaVuSans.ttf/A`"""
        return f"{font}/{self.characters[label]}"


def draw_font(path: Path, characters: Sequence[str]) -> list[Image.Image]:
    """The characters in order: gray, 128×128, black on white, each centerd and scaled to the same box.

    Raises:
        FontError: The file is no font, lacks a character, draws symbols, or two characters alike.
    """
    _check_glyphs(path, characters)
    try:
        # Basic layout: the complex one joins and replaces glyphs, and is not part of every Pillow.
        font = ImageFont.truetype(path, size=_EM, layout_engine=ImageFont.Layout.BASIC)
        drawn = [_drawn(font, character) for character in characters]
    except (OSError, ValueError) as error:
        raise FontError("cannot be read", str(error)) from error
    first_with: dict[bytes, str] = {}
    for character, image in zip(characters, drawn, strict=True):
        twin = first_with.setdefault(image.tobytes(), character)
        if twin != character:
            raise FontError("draws two characters alike", f"{twin} and {character}")
    return drawn


def _drawn(font: ImageFont.FreeTypeFont, character: str) -> Image.Image:
    left, top, right, bottom = (round(edge) for edge in font.getbbox(character))
    drawn = Image.new("L", (max(1, right - left), max(1, bottom - top)))
    ImageDraw.Draw(drawn).text((-left, -top), character, fill=255, font=font)
    box = drawn.getbbox()
    if box is None:
        raise FontError("lacks a character", f"draws nothing for {character}")
    ink = drawn.crop(box)
    scale = min(_INK_WIDTH / ink.width, _INK_HEIGHT / ink.height)
    size = (max(1, round(ink.width * scale)), max(1, round(ink.height * scale)))
    image = Image.new("L", (_SIZE, _SIZE))
    corner = ((_SIZE - size[0]) // 2, (_SIZE - size[1]) // 2)
    image.paste(ink.resize(size, Image.Resampling.BICUBIC), corner)
    return ImageChops.invert(image)


def _check_glyphs(path: Path, characters: Sequence[str]) -> None:
    """Refuse a font with symbols for characters, or without one: FreeType would draw an empty box."""
    from fontTools.ttLib import TTFont  # type: ignore[import-untyped]

    try:
        with TTFont(path, lazy=True) as font:
            mapping = font.getBestCmap() or {}
    # fontTools raises whatever a damaged table leads to: struct.error, KeyError, AssertionError, its own.
    except Exception as error:
        raise FontError("cannot be read", str(error) or type(error).__name__) from error
    glyphs = {character: mapping.get(ord(character), ".notdef") for character in characters}
    lacking = [character for character, glyph in glyphs.items() if glyph == ".notdef"]
    if lacking:
        raise FontError("lacks a character", _listed(lacking))
    symbols = [f"{glyph} for {character}" for character, glyph in glyphs.items() if _is_other(glyph, character)]
    if symbols:
        raise FontError("draws symbols for characters", _listed(symbols))


def _is_other(glyph: str, character: str) -> bool:
    """Whether a glyph's name is another character's, as in symbol fonts: `infinity` in place of 1."""
    from fontTools.agl import toUnicode  # type: ignore[import-untyped]

    meaning: str = toUnicode(glyph)
    # U+F6xx and U+F7xx are Adobe's own codes for variants: small capitals, old-style figures.
    if len(meaning) != 1 or "\uf600" <= meaning <= "\uf7ff":
        return False
    return meaning.casefold() != character.casefold()


def _installed_fonts() -> list[Path]:
    import matplotlib
    from matplotlib.font_manager import findSystemFonts

    shipped = Path(matplotlib.get_data_path()) / "fonts"
    paths = [*map(Path, findSystemFonts()), *shipped.rglob("*")]
    return [path for path in set(paths) if _is_font(path)]


def _is_font(path: Path) -> bool:
    # A file that begins with a dot is no font but what macOS leaves beside one.
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".") and path.is_file()


def _relative_names(files: list[Path], folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in files]


def _shortest_names(files: list[Path]) -> list[str]:
    """The end of each path, long enough to be unique: `DejaVuSans.ttf`, or `truetype/DejaVuSans.ttf`."""
    lengths = dict.fromkeys(files, 1)
    while True:
        names = ["/".join(path.parts[-lengths[path] :]) for path in files]
        shared = {name for name, count in Counter(names).items() if count > 1}
        if not shared:
            return names
        for path, name in zip(files, names, strict=True):
            lengths[path] += name in shared


def _same_content(files: list[Path]) -> dict[Path, Path]:
    """Files with the content of an earlier one, and that one."""
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in files:
        by_size[path.stat().st_size].append(path)
    twins, first_with = dict[Path, Path](), dict[bytes, Path]()
    for path in (path for paths in by_size.values() if len(paths) > 1 for path in paths):
        first = first_with.setdefault(hashlib.blake2b(path.read_bytes()).digest(), path)
        if first != path:
            twins[path] = first
    return twins


def _listed(items: list[str]) -> str:
    few = ", ".join(items[:5])
    return few if len(items) <= 5 else f"{few} and {len(items) - 5} more"
