from pathlib import Path

import matplotlib
import numpy as np
import pytest
from fontTools.ttLib import TTFont  # type: ignore[import-untyped]
from fontTools.ttLib.tables._g_l_y_f import Glyph  # type: ignore[import-untyped]

from litlens.data.datasets.font_render import FontError, draw_font, font_files
from litlens.data.datasets.fonts import CHARACTERS
from litlens.errors import UserError

SHIPPED = Path(matplotlib.get_data_path()) / "fonts" / "ttf"


def test_characters_are_black_on_white_centered_and_scaled_to_one_box() -> None:
    for character, image in zip(CHARACTERS, draw_font(SHIPPED / "DejaVuSans.ttf", CHARACTERS), strict=True):
        assert image.shape == (128, 128, 1)
        pixels = image[..., 0]
        assert pixels.min() < 30
        assert pixels[0].min() == 255
        assert pixels[:, 0].min() == 255
        rows, columns = (np.flatnonzero((pixels < 255).any(axis=axis)) for axis in (1, 0))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        # As in Chars74K's archive, a character fills 22/28 of the height or 20/28 of the width.
        assert (height == 101 and width <= 91) or (width == 91 and height <= 101), character
        assert abs(rows[0] + rows[-1] - 127) <= 1, character
        assert abs(columns[0] + columns[-1] - 127) <= 1, character


def test_characters_are_upright_and_in_order() -> None:
    images = dict(zip(CHARACTERS, draw_font(SHIPPED / "DejaVuSans.ttf", CHARACTERS), strict=True))
    ink = 255 - images["L"][..., 0].astype(int)
    upper, lower = ink[:64], ink[64:]
    # An L: nothing in the upper right quarter, its foot in the lower right one.
    assert upper[:, 64:].sum() == 0
    assert lower[:, 64:].sum() > 0
    assert upper[:, :64].sum() > 0


def _small_capitals(path: Path) -> Path:
    """DejaVu Sans with M in place of m."""
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


def test_unsuitable_fonts_are_refused_with_their_reason(tmp_path: Path) -> None:
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


def test_a_character_without_an_outline_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FontError, match=r"lacks a character \(draws nothing for A\)"):
        draw_font(_blank(tmp_path / "blank.ttf"), CHARACTERS)


def test_old_style_figures_are_figures() -> None:
    # cmmi10 calls them zerooldstyle to nineoldstyle.
    assert len(draw_font(SHIPPED / "cmmi10.ttf", CHARACTERS)) == 52


def test_fonts_of_a_folder_are_named_by_their_path(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b.ttf", "sub/a.TTF", "sub/._a.TTF", "c.otf", "readme.txt"):
        (tmp_path / name).write_bytes(b"")
    assert list(font_files(tmp_path).values()) == ["b.ttf", "c.otf", "sub/a.TTF"]


def test_fonts_of_the_machine_have_unique_names() -> None:
    fonts = font_files(None)
    assert "STIXGeneral.ttf" in {path.name for path in fonts}
    assert len(set(fonts.values())) == len(fonts)
    assert all(path.as_posix().endswith(name) for path, name in fonts.items())


def test_a_folder_without_fonts_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no \.ttf or \.otf file"):
        font_files(tmp_path)
    with pytest.raises(UserError, match="not a folder"):
        font_files(tmp_path / "nothing")
