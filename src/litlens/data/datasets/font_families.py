"""Families of fonts that share a glyph, and a split by font that keeps each family in one split.

Collections of fonts are full of relatives: one design under two names, a bold whose digits are the regular's. After a
random split by font, 27 % of Chars74K's validation glyphs have a pixel-identical twin in training, and the score is
too high.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from litlens.errors import UserError

# Fonts of the reference split, of 1016 in all. The rest, 716, is for training.
_SHARE = 150 / 1016
# A family above this size goes to training: else it would fill much of one held-out split, unlike the other.
LARGEST_HELD_OUT = 10


@dataclass(frozen=True)
class FontSplit:
    """The fonts of each split: sorted indices (int64) of disjoint sets that together are all fonts."""

    train: NDArray[np.int64]
    val: NDArray[np.int64]
    test: NDArray[np.int64]


def font_families(digests: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The family of each font: the connected component of fonts that share a glyph of one class.

    Args:
        digests: uint8 (fonts, classes, bytes). Two glyphs are the same if their digests are equal.

    Returns:
        int64 (fonts,). A family is called by the lowest index among its fonts.
    """
    fonts, classes = digests.shape[:2]
    # A graph of fonts and glyphs, with an edge from each font to each of its glyphs.
    glyphs, nodes = np.empty((fonts, classes), dtype=np.int64), fonts
    for label in range(classes):
        _, first, inverse = np.unique(digests[:, label], axis=0, return_index=True, return_inverse=True)
        glyphs[:, label] = nodes + inverse.reshape(-1)
        nodes += len(first)
    edges = (np.ones(glyphs.size, dtype=bool), (np.repeat(np.arange(fonts), classes), glyphs.ravel()))
    _, component = connected_components(coo_array(edges, shape=(nodes, nodes)), directed=False)
    _, first, inverse = np.unique(component[:fonts], return_index=True, return_inverse=True)
    return first[inverse].astype(np.int64)


def split_sizes(fonts: int) -> tuple[int, int, int]:
    """Fonts for training, validation and test: 716, 150, 150 of 1016, the same shares of other numbers."""
    held_out = max(1, round(fonts * _SHARE))
    return fonts - 2 * held_out, held_out, held_out


def split_fonts(families: NDArray[np.int64], *, seed: int) -> FontSplit:
    """Cut fonts into training, validation and test by whole families, in the sizes of `split_sizes`.

    Families of more than `LARGEST_HELD_OUT` fonts go to training. The others, shuffled by the seed, fill
    validation and test. Where that leaves a gap, families are chosen again, so that the sizes are hit exactly
    or as nearly as whole families allow.

    Raises:
        UserError: There are too few families for three splits.
    """
    names, counts = np.unique(families, return_counts=True)
    small = [int(name) for name in names[counts <= LARGEST_HELD_OUT]]
    np.random.default_rng(seed).shuffle(small)
    sizes = [int(counts[np.searchsorted(names, name)]) for name in small]
    _, *held_out = split_sizes(len(families))
    sides = _filled_in_turn(sizes, held_out)
    if _gap(sizes, sides, held_out):
        sides = _filled_exactly(sizes, held_out)
    in_val, in_test = (
        np.isin(families, [name for name, side in zip(small, sides, strict=True) if side == wanted])
        for wanted in (0, 1)
    )
    split = FontSplit(*(np.flatnonzero(chosen) for chosen in (~(in_val | in_test), in_val, in_test)))
    if min(len(split.train), len(split.val), len(split.test)) == 0:
        raise UserError(
            f"fonts: {len(families)} fonts in {len(names)} families are too few for three splits "
            f"(a family is never divided, and one of more than {LARGEST_HELD_OUT} fonts is for training): add fonts"
        )
    return split


def _filled_in_turn(sizes: list[int], held_out: list[int]) -> list[int | None]:
    """The side of each family: validation (0) while it has room, then test (1), else neither."""
    room, sides = list(held_out), list[int | None]()
    for size in sizes:
        side = next((side for side in (0, 1) if room[side] >= size), None)
        if side is not None:
            room[side] -= size
        sides.append(side)
    return sides


def _gap(sizes: list[int], sides: list[int | None], held_out: list[int]) -> int:
    return sum(held_out) - sum(size for size, side in zip(sizes, sides, strict=True) if side is not None)


def _filled_exactly(sizes: list[int], held_out: list[int]) -> list[int | None]:
    """The sides that come nearest to the sizes wanted, of all there are (a subset sum over two sides)."""
    val, test = held_out
    # after[k][v, t]: some choice among the first k families puts v fonts into validation and t into test.
    after = [np.zeros((val + 1, test + 1), dtype=bool)]
    after[0][0, 0] = True
    for size in sizes:
        reached = after[-1].copy()
        reached[size:] |= after[-1][: max(0, val + 1 - size)]
        reached[:, size:] |= after[-1][:, : max(0, test + 1 - size)]
        after.append(reached)
    v, t = min(np.argwhere(after[-1]).tolist(), key=lambda filled: _distance(filled, held_out))
    sides = list[int | None]()
    for size, reached in zip(reversed(sizes), reversed(after[:-1]), strict=True):
        if reached[v, t]:
            sides.append(None)
        elif v >= size and reached[v - size, t]:
            sides.append(0)
            v -= size
        else:
            sides.append(1)
            t -= size
    return sides[::-1]


def _distance(filled: list[int], held_out: list[int]) -> tuple[bool, int, int]:
    missing = [wanted - got for wanted, got in zip(held_out, filled, strict=True)]
    # An empty split is worse than any other; among equals, both sides should miss the same.
    return min(filled) == 0, sum(missing), max(missing)
