import shutil
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from fontTools.ttLib import TTFont  # type: ignore[import-untyped]
from fontTools.ttLib.tables._g_l_y_f import Glyph  # type: ignore[import-untyped]

from litlens.data.datasets.font_render import FontError, RenderedFonts, draw_font
from litlens.data.datasets.fonts import CHARACTERS
from litlens.errors import UserError

SHIPPED = Path(matplotlib.get_data_path()) / "fonts" / "ttf"


def test_characters_are_black_on_white_centred_and_scaled_to_one_box() -> None:
    for character, image in zip(CHARACTERS, draw_font(SHIPPED / "DejaVuSans.ttf", CHARACTERS), strict=True):
        pixels = np.asarray(image)
        assert pixels.shape == (128, 128)
        assert pixels.min() < 30
        assert pixels[0].min() == 255
        assert pixels[:, 0].min() == 255
        rows, columns = (np.flatnonzero((pixels < 255).any(axis=axis)) for axis in (1, 0))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        # As in Chars74K's archive, a character fills 22/28 of the height or 20/28 of the width.
        assert (height == 101 and width <= 91) or (width == 91 and height <= 101), character
        assert abs(rows[0] + rows[-1] - 127) <= 1, character
        assert abs(columns[0] + columns[-1] - 127) <= 1, character


def test_characters_stand_upright_and_in_order() -> None:
    images = dict(zip(CHARACTERS, draw_font(SHIPPED / "DejaVuSans.ttf", CHARACTERS), strict=True))
    ink = 255 - np.asarray(images["L"]).astype(int)
    upper, lower = ink[:64], ink[64:]
    # An L: nothing in the upper right quarter, its foot in the lower right one.
    assert upper[:, 64:].sum() == 0
    assert lower[:, 64:].sum() > 0
    assert upper[:, :64].sum() > 0


def _small_capitals(path: Path) -> Path:
    """DejaVu Sans with M in the place of m."""
    with TTFont(SHIPPED / "DejaVuSans.ttf") as font:
        for table in font["cmap"].tables:
            if ord("m") in table.cmap:
                table.cmap[ord("m")] = "M"
        font.save(path)
    return path


def _blank(path: Path) -> Path:
    """DejaVu Sans with an A that has no outline."""
    with TTFont(SHIPPED / "DejaVuSans.ttf") as font:
        font["glyf"]["A"] = Glyph()
        font.save(path)
    return path


def _cut(path: Path) -> Path:
    path.write_bytes((SHIPPED / "DejaVuSans.ttf").read_bytes()[:5000])
    return path


def test_unsuitable_fonts_are_told_apart(tmp_path: Path) -> None:
    cases = [
        (SHIPPED / "DejaVuSansDisplay.ttf", "lacks a character", "0, 1, 2, 3, 4 and 47 more"),
        (SHIPPED / "cmsy10.ttf", "draws symbols for characters", "infinity for 1"),
        (_small_capitals(tmp_path / "caps.ttf"), "draws two characters alike", "M and m"),
        (_cut(tmp_path / "cut.ttf"), "cannot be read", ""),
    ]
    for path, reason, detail in cases:
        with pytest.raises(FontError) as caught:
            draw_font(path, CHARACTERS)
        assert caught.value.reason == reason, path
        assert detail in caught.value.detail, path


def test_a_character_without_ink_is_lacking(tmp_path: Path) -> None:
    with pytest.raises(FontError, match=r"lacks a character \(draws nothing for A\)"):
        draw_font(_blank(tmp_path / "blank.ttf"), CHARACTERS)


def test_old_style_figures_are_figures() -> None:
    # cmmi10 calls them zerooldstyle to nineoldstyle.
    assert len(draw_font(SHIPPED / "cmmi10.ttf", CHARACTERS)) == 52


def test_fonts_of_a_folder_are_named_by_their_path_and_copies_left_out(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    shutil.copy(SHIPPED / "DejaVuSans.ttf", tmp_path / "a.ttf")
    shutil.copy(SHIPPED / "DejaVuSans.ttf", tmp_path / "sub" / "b.TTF")
    shutil.copy(SHIPPED / "DejaVuSans-Bold.ttf", tmp_path / "sub" / "c.otf")
    shutil.copy(SHIPPED / "DejaVuSans-Bold.ttf", tmp_path / "sub" / "._c.otf")
    (tmp_path / "readme.txt").write_text("no font")
    source = RenderedFonts(CHARACTERS, folder=tmp_path)
    fonts = dict(source.fonts())
    assert list(fonts) == ["a.ttf", "sub/b.TTF", "sub/c.otf"]
    copy = fonts["sub/b.TTF"]
    assert isinstance(copy, FontError)
    assert copy.reason == "is a copy of another"
    assert source.sample_name("sub/c.otf", CHARACTERS.index("A")) == "sub/c.otf/A"


def test_fonts_of_the_machine_have_short_unique_names() -> None:
    source = RenderedFonts("A")
    files = source.files()
    assert any(path.name == "STIXGeneral.ttf" for path in files)
    names = [name for name, _ in source.fonts()]
    assert len(set(names)) == len(names) == len(files)
    assert all(path.as_posix().endswith(name) for path, name in zip(files, names, strict=True))


def test_a_folder_without_fonts_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no \.ttf or \.otf file"):
        RenderedFonts(CHARACTERS, folder=tmp_path).files()
    with pytest.raises(UserError, match="not a folder"):
        RenderedFonts(CHARACTERS, folder=tmp_path / "nothing").files()
