"""Families of fonts that share a glyph, and a split by font that keeps each family in one split.

Collections of fonts are full of relatives: one design under two names, a bold whose digits are the regular's. After a
random split by font, 27 % of Chars74K's validation glyphs have a pixel-identical twin in training, and the score is
too high.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from litlens.data.datasets.splits import Indices, stratified_split
from litlens.errors import UserError

# Fonts held out twice of the reference split's 1016: for validation and for test.
_HELD_OUT = 150 / 1016
# A larger family goes to training: 25 of the 150 fonts of a held-out split would be one design.
_LARGEST_HELD_OUT = 10


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


def split_by_family(families: NDArray[np.int64], *, seed: int) -> dict[str, Indices]:
    """The fonts of `train`, `val` and `test`: 716, 150 and 150 of 1016, by whole families, large ones in training.

    Raises:
        UserError: There are too few families for three splits.
    """
    _, family, sizes = np.unique(families, return_inverse=True, return_counts=True)
    small = np.flatnonzero(sizes[family] <= _LARGEST_HELD_OUT)
    held_out = max(1, round(len(families) * _HELD_OUT))
    shares = [max(1, len(small) - 2 * held_out), held_out, held_out]
    parts = stratified_split(np.zeros(len(small)), shares, seed=seed, groups=families[small].tolist())
    val, test = small[parts[1]], small[parts[2]]
    splits = {"train": np.setdiff1d(np.arange(len(families)), [*val, *test]), "val": val, "test": test}
    if not all(map(len, splits.values())):
        raise UserError(
            f"data: {len(families)} fonts in {len(sizes)} families are too few for three splits "
            f"(a family is never divided, and one of more than {_LARGEST_HELD_OUT} fonts is for training): add fonts"
        )
    return splits
