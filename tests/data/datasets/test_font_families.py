import numpy as np
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from litlens.data.datasets.font_families import font_families, split_by_family
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
        (1016, [716, 150, 150]),
        (2032, [1432, 300, 300]),
        (100, [70, 15, 15]),
        (20, [14, 3, 3]),
        (3, [1, 1, 1]),
    ],
)
def test_other_numbers_of_fonts_are_split_in_the_same_proportions(fonts: int, sizes: list[int]) -> None:
    splits = split_by_family(np.arange(fonts), seed=0)
    assert list(splits) == ["train", "val", "test"]
    assert [len(members) for members in splits.values()] == sizes


@given(sizes=st.lists(st.integers(1, 14), min_size=10, max_size=25), seed=st.integers(0, 2**32))
def test_no_family_is_divided_and_large_ones_are_for_training(sizes: list[int], seed: int) -> None:
    families = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    try:
        train, val, test = split_by_family(families, seed=seed).values()
    except UserError:
        reject()
    assert sorted([*train, *val, *test]) == list(range(len(families)))
    homes = [set(families[fonts].tolist()) for fonts in (train, val, test)]
    assert sum(map(len, homes)) == len(sizes)
    assert all(sizes[family] <= 10 for family in homes[1] | homes[2])


@pytest.mark.parametrize(
    ("sizes", "split"),
    [
        ([1, 1], None),
        ([20, 1], None),  # the large family is for training, and one font is not enough for two splits
        ([4, 4, 4], None),  # of 12 fonts, 2 are held out twice
        ([11, 1, 1], [11, 1, 1]),
        ([29, 29, 29, 1, 1, 1, 1], [87, 2, 2]),
        ([10] * 12, [80, 20, 20]),
    ],
)
def test_few_families_are_split_or_refused(sizes: list[int], split: list[int] | None) -> None:
    families = np.repeat(np.arange(len(sizes)), sizes)
    if split is None:
        with pytest.raises(UserError, match=f"{sum(sizes)} fonts in {len(sizes)} families are too few"):
            split_by_family(families, seed=0)
    else:
        assert [len(fonts) for fonts in split_by_family(families, seed=0).values()] == split


def test_the_seed_alone_decides() -> None:
    families = np.arange(100)
    again = [split_by_family(families, seed=seed)["test"].tolist() for seed in (1, 1, 2)]
    assert again[0] == again[1] != again[2]
