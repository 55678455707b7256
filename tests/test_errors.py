"""The phrases that error messages share."""

import pytest

from litlens.errors import listed, nearest


@pytest.mark.parametrize(
    ("word", "names", "expected"),
    [
        ("rleu", ["gelu", "relu"], "; did you mean 'relu'?"),
        ("ADAM", ["SGD", "Adam"], "; did you mean 'Adam'?"),
        ("zzz", ["a", "b", "a"], "; choose from a, b"),
        ("zzz", [], ""),
    ],
)
def test_nearest(word: str, names: list[str], expected: str) -> None:
    assert nearest(word, names) == expected


def test_nearest_offers_several() -> None:
    assert nearest("layer5", ["layer1", "layer2", "fc"], most=2).count("'layer") == 2


def test_listed() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed(range(8), most=3) == "0, 1, 2 and 5 more"
