import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from litlens.data.datasets.font_families import LARGEST_HELD_OUT, font_families, split_fonts, split_sizes
from litlens.errors import UserError


def test_fonts_are_relatives_through_any_glyph_of_the_same_class() -> None:
    glyphs = [
        [[1], [5]],
        [[2], [6]],
        [[3], [5]],  # the second glyph of font 0
        [[5], [1]],  # font 0's glyphs, but each of the other class
        [[2], [7]],  # the first glyph of font 1
        [[3], [7]],  # the first of font 2 and the second of font 4: joins both families
    ]
    assert font_families(np.array(glyphs, dtype=np.uint8)).tolist() == [0, 0, 0, 3, 0, 0]


@given(st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=1))
def test_a_family_is_everything_that_can_be_reached_by_shared_glyphs(glyphs: list[list[int]]) -> None:
    families = font_families(np.array(glyphs, dtype=np.uint8)[..., None])
    related = [[any(a == b for a, b in zip(one, two, strict=True)) for two in glyphs] for one in glyphs]
    for font, family in enumerate(families):
        reached = {font}
        while more := {other for one in reached for other, is_one in enumerate(related[one]) if is_one} - reached:
            reached |= more
        assert family == min(reached)


@pytest.mark.parametrize(
    ("fonts", "sizes"),
    [
        (1016, (716, 150, 150)),
        (2032, (1432, 300, 300)),
        (100, (70, 15, 15)),
        (20, (14, 3, 3)),
        (3, (1, 1, 1)),
    ],
)
def test_other_numbers_of_fonts_are_cut_in_the_same_proportions(fonts: int, sizes: tuple[int, int, int]) -> None:
    assert split_sizes(fonts) == sizes


@st.composite
def _families(draw: st.DrawFn) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    sizes = draw(st.lists(st.integers(1, 14), min_size=1, max_size=25))
    order = draw(st.permutations(range(sum(sizes))))
    families = np.repeat(np.arange(len(sizes)), sizes)[order]
    # A family is called by its first font, as `font_families` does.
    return np.array([np.flatnonzero(families == family)[0] for family in families], dtype=np.int64)


@given(families=_families(), seed=st.integers(0, 2**32))
def test_a_split_keeps_families_together_and_hits_the_sizes_where_any_choice_does(families, seed) -> None:  # type: ignore[no-untyped-def]
    _, val, test = split_sizes(len(families))
    small = [count for count in np.unique(families, return_counts=True)[1].tolist() if count <= LARGEST_HELD_OUT]
    possible = {(0, 0)}
    for size in small:
        possible |= {(v + size, t) for v, t in possible} | {(v, t + size) for v, t in possible}
    possible = {(v, t) for v, t in possible if 0 < v <= val and 0 < t <= test and v + t < len(families)}
    if not possible:
        with pytest.raises(UserError, match="too few"):
            split_fonts(families, seed=seed)
        return

    split = split_fonts(families, seed=seed)

    assert sorted([*split.train, *split.val, *split.test]) == list(range(len(families)))
    sides = [set(families[fonts]) for fonts in (split.train, split.val, split.test)]
    assert len(set.union(*sides)) == sum(map(len, sides))
    counts = dict(zip(*np.unique(families, return_counts=True), strict=True))
    assert all(counts[family] <= LARGEST_HELD_OUT for family in sides[1] | sides[2])
    missed = val + test - len(split.val) - len(split.test)
    assert missed == min(val + test - v - t for v, t in possible)


def test_the_seed_alone_decides() -> None:
    families = np.arange(100)
    again = [split_fonts(families, seed=seed).test.tolist() for seed in (1, 1, 2)]
    assert again[0] == again[1] != again[2]
