"""The phrases that error messages share."""

import json.decoder
import os
import shlex
from pathlib import Path

import pytest

from litlens.errors import UserError, import_extra, listed, nearest, quoted


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


@pytest.mark.skipif(os.name == "nt", reason="another shell")
def test_a_path_with_a_blank_is_one_word_of_a_command() -> None:
    assert quoted(Path("runs/digits_cnn/2026-11-27_10-00-00")) == "runs/digits_cnn/2026-11-27_10-00-00"
    assert shlex.split(f"--resume {quoted('runs/my data/1')}") == ["--resume", "runs/my data/1"]


def test_a_missing_extra_is_named_with_the_command_that_installs_it() -> None:
    assert import_extra("json.decoder", extra="x", needed_by="this") is json.decoder
    with pytest.raises(UserError, match=r'^backbone: timm/x needs nowhere: pip install "litlens\[timm\]"$'):
        import_extra("nowhere.inside", extra="timm", needed_by="backbone: timm/x")


def test_a_package_that_an_extra_lacks_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_installed.py").write_text("import nowhere")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        import_extra("half_installed", extra="x", needed_by="this")
