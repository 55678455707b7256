"""Checkpoints are data: anything else, and any damage, is refused in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from litlens.checkpoints.loaded_classifier import load_classifier
from litlens.checkpoints.reading import read_checkpoint
from litlens.errors import UserError
from litlens.models.classifier import CHECKPOINT_FORMAT

# The probabilities that the network of format-2.ckpt gave a gradient when it was written.
PREDICTED = {"4": 0.153060, "6": 0.145818, "0": 0.129041, "8": 0.121414, "7": 0.104834, "9": 0.085903}
PREDICTED |= {"2": 0.080768, "5": 0.068698, "1": 0.060058, "3": 0.050399}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "there is no checkpoint"),
        (b"", "damaged or not a checkpoint"),
        (b"not a checkpoint at all", "damaged or not a checkpoint"),
        (b".", "damaged or not a checkpoint"),  # an IndexError in the unpickler
        (b"G", "damaged or not a checkpoint"),  # a struct.error
        (b"hello world\n", "damaged or not a checkpoint"),
        ({"litlens": 3, "state_dict": {}}, "not written by litlens"),
        ({"state_dict": {}}, "not written by litlens"),
        ([1, 2], "not written by litlens"),
        ({"litlens": {"format": 99}, "state_dict": {}}, "format 99"),
    ],
)
def test_anything_but_a_checkpoint_is_one_line(tmp_path: Path, content: Any, words: str) -> None:
    path = tmp_path / "x.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match=words) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    torch.save({"litlens": {"format": 1}, "state_dict": {"weight": torch.zeros(1000)}}, path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UserError, match="damaged"):
        read_checkpoint(path)


def test_no_flipped_bit_is_loaded(tmp_path: Path) -> None:
    """Of every byte of a file, one bit: it is refused in one line, or what is loaded is what was saved."""
    path = tmp_path / "x.ckpt"
    weights = {"weight": torch.tensor([1.5, -2.0])}
    saved = {"litlens": {"format": CHECKPOINT_FORMAT, "class_names": ["cat", "dog"]}, "state_dict": weights}
    torch.save(saved, path)
    whole = path.read_bytes()
    refusals = []
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            loaded = read_checkpoint(path)
        except UserError as error:
            refusals.append(str(error))
        else:
            assert torch.equal(loaded["state_dict"].pop("weight"), weights["weight"]), place
            assert loaded == {**saved, "state_dict": {}}, place
    assert len(refusals) > len(whole) / 2  # the others are padding between the records
    assert all(str(path) in line and "\n" not in line for line in refusals)


def test_a_file_of_every_format_is_loaded_or_refused_in_one_line() -> None:
    """`format-N.ckpt` was written by the digits' config with an MLP of one hidden layer, two wide, after an epoch."""
    files = {int(path.stem.rpartition("-")[2]): path for path in Path(__file__).parent.glob("format-*.ckpt")}
    assert sorted(files) == list(range(1, CHECKPOINT_FORMAT + 1))
    predicted = load_classifier(files.pop(CHECKPOINT_FORMAT)).predict(
        np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)
    )
    assert predicted == pytest.approx(PREDICTED, abs=1e-5)
    for number, path in files.items():
        with pytest.raises(UserError, match=f"has format {number}, this litlens reads format {CHECKPOINT_FORMAT}: "):
            load_classifier(path)
