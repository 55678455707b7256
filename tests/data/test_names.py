"""Names in one block are read as the list that they were made of, in less than half of its memory."""

import os
import pickle
import tracemalloc

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from litlens.data.names import Names, at_places

# Whatever a file system may hold: bytes that are not UTF-8, too.
FILE_NAMES = st.lists(st.binary(max_size=20).map(os.fsdecode), max_size=8)


@given(FILE_NAMES, st.data())
def test_a_list_of_the_same_strings(names: list[str], data: st.DataObject) -> None:
    packed = Names(iter(names))
    assert list(packed) == names == packed
    assert (len(packed), [packed[place] for place in range(-len(names), 0)]) == (len(names), names)
    places = data.draw(st.lists(st.integers(0, len(names) - 1), max_size=8)) if names else []
    chosen = [names[place] for place in places]
    assert at_places(packed, np.array(places, int)) == chosen == at_places(names, np.array(places, int))
    assert pickle.loads(pickle.dumps(packed)) == names


def test_other_strings_are_not_equal() -> None:
    packed = Names(["a/1.png", "b/2.png"])
    assert packed[::-1] == ["b/2.png", "a/1.png"]
    assert packed not in (["a/1.png"], ["a/1.png", "b/2.pnG"], None)
    assert Names("ab") != "ab"


def test_memory() -> None:
    """A name of 27 characters takes 39 bytes: itself, where it ends (8), and its place (4)."""
    tracemalloc.start()
    packed = Names(f"train/class0001/{number:07}.jpg" for number in range(10_000))
    every_second = packed[::2]
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (packed[9_999], every_second[1]) == ("train/class0001/0009999.jpg", "train/class0001/0000002.jpg")
    assert taken < 10_000 * (27 + 8 + 4) + 5_000 * 4 + 50_000
