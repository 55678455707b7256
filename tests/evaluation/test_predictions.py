"""Predictions: what does not match is refused, and the file restores every bit."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from litlens.errors import UserError
from litlens.evaluation.predictions import Predictions

AWKWARD = ['<script>"a", b</script>', "name", "logit:x", "zwei\nZeilen", "größer;=1+1"]


def awkward() -> Predictions:
    """Numbers that a careless format loses: subnormals, the largest, a third, minus zero."""
    logits = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    logits[0] = [1e-45, 3.4028235e38, 1 / 3, -0.0, 16777217]
    logits[1] = [0.1, -0.1, 1e-8, 123456.789, 7.0]
    names = ["a/b, c.png", 'q"uote.png', "line\nbreak.png", "ü.png", "b\udcff.png", " space ", "plain.png"]
    return Predictions(logits, np.array([0, 1, 2, 3, 4, 0, 1]), names, AWKWARD)


def test_loading_gives_back_every_bit(tmp_path: Path) -> None:
    saved = awkward()
    saved.save(tmp_path / "predictions-test.csv")
    loaded = Predictions.load(tmp_path / "predictions-test.csv")
    assert loaded.logits.tobytes() == saved.logits.tobytes()
    assert loaded.logits.dtype == np.float32
    assert loaded.labels.dtype == np.int64
    assert loaded.labels.tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert (loaded.names, loaded.class_names) == (saved.names, saved.class_names)


def test_random_bit_patterns_survive(tmp_path: Path) -> None:
    bits = np.random.default_rng(1).integers(0, 2**32, size=(2000, 10), dtype=np.uint32)
    logits = bits.view(np.float32)
    logits[~np.isfinite(logits)] = 0
    saved = Predictions(logits, np.zeros(2000), [str(k) for k in range(2000)], [str(k) for k in range(10)])
    with np.errstate(all="ignore"):
        saved.save(tmp_path / "p.csv")
    assert Predictions.load(tmp_path / "p.csv").logits.tobytes() == logits.tobytes()


def test_the_logits_of_many_classes_are_in_a_file_beside(tmp_path: Path) -> None:
    logits = np.random.default_rng(0).normal(size=(5, 101)).astype(np.float32)
    saved = Predictions(logits, np.arange(5), list("abcde"), [f"class {k}" for k in range(101)])
    saved.save(tmp_path / "p.csv")
    assert (tmp_path / "p.csv").read_text().splitlines()[0] == "name,label,predicted,probability"
    written = (tmp_path / "p.pt").read_bytes()
    loaded = Predictions.load(tmp_path / "p.csv")
    assert loaded.logits.tobytes() == logits.tobytes()
    assert (loaded.labels.tolist(), loaded.names, loaded.class_names) == (
        [0, 1, 2, 3, 4],
        list("abcde"),
        saved.class_names,
    )
    saved.subset([1, 0, 2, 3, 4]).save(tmp_path / "q.csv")
    (tmp_path / "q.pt").write_bytes(written)
    with pytest.raises(UserError, match=r"q.csv: q.pt holds other predictions"):
        Predictions.load(tmp_path / "q.csv")
    (tmp_path / "q.pt").unlink()
    with pytest.raises(UserError, match=r"no file of logits at .*q.pt"):
        Predictions.load(tmp_path / "q.csv")


def test_equal_predictions_are_equal_bytes_in_a_single_file(tmp_path: Path) -> None:
    awkward().save(tmp_path / "a.csv")
    awkward().save(tmp_path / "b.csv")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "b.csv"]


def test_a_person_can_read_the_file(tmp_path: Path) -> None:
    two = Predictions(np.array([[0.0, 1.5], [2.0, -0.1]]), [1, 1], ["cat.1.jpg", "dog.2.jpg"], ["cat", "dog"])
    two.save(tmp_path / "p.csv")
    assert (tmp_path / "p.csv").read_text() == (
        "name,label,predicted,probability,logit:cat,logit:dog\n"
        "cat.1.jpg,dog,dog,0.817574,0.0,1.5\n"
        "dog.2.jpg,dog,cat,0.890903,2.0,-0.1\n"
    )


def test_no_samples_at_all_still_name_the_classes(tmp_path: Path) -> None:
    Predictions(np.empty((0, 2)), np.empty(0), [], ["cat", "dog"]).save(tmp_path / "p.csv")
    loaded = Predictions.load(tmp_path / "p.csv")
    assert len(loaded) == 0
    assert loaded.class_names == ["cat", "dog"]


def test_probabilities_are_the_softmax_even_of_huge_logits() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32) * 30
    logits[0] = [1000, -1000, 0, 0, 0, 0]
    some = Predictions(logits, np.zeros(50), [str(k) for k in range(50)], list("abcdef"))
    expected = torch.log_softmax(torch.from_numpy(logits).double(), dim=1).numpy()
    np.testing.assert_allclose(some.log_probabilities, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(some.probabilities.sum(axis=1), 1, rtol=1e-12)
    assert some.predicted.tolist() == logits.argmax(axis=1).tolist()


@pytest.mark.parametrize(
    ("labels", "names", "classes"),
    [([0, 1], ["a"], ["x", "y"]), ([0], ["a", "b"], ["x", "y"]), ([0, 1], ["a", "b"], ["x"])],
)
def test_lengths_that_differ_are_refused(labels: list[int], names: list[str], classes: list[str]) -> None:
    with pytest.raises(ValueError, match="do not match"):
        Predictions(np.zeros((2, 2)), labels, names, classes)


def test_labels_out_of_range_and_equal_class_names_are_refused() -> None:
    with pytest.raises(ValueError, match="labels from 0 to 2 with 2 classes"):
        Predictions(np.zeros((2, 2)), [0, 2], ["a", "b"], ["x", "y"])
    with pytest.raises(ValueError, match="must be unique"):
        Predictions(np.zeros((1, 2)), [0], ["a"], ["x", "x"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a table of predictions"),
        ("a,b\n1,2\n", "not a table of predictions"),
        ("name,label,predicted,probability,logit:x\np.png,y,x,1.0,0.5\n", "row 1 is damaged"),
        ("name,label,predicted,probability,logit:x\np.png,x,x,1.0,0.5\nq.png,x\n", "row 2 is damaged"),
        ("name,label,predicted,probability,logit:x\np.png,x,x,1.0,zero\n", "row 1 is damaged"),
        (
            "name,label,predicted,probability,logit:x\np.png,x,x,1.0,0.5,1\n",
            "row 1 has 2 logits for 1 classes",
        ),
    ],
)
def test_another_file_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(UserError, match=message) as raised:
        Predictions.load(tmp_path / "p.csv")
    assert "\n" not in str(raised.value)
    assert str(tmp_path / "p.csv") in str(raised.value)


def test_a_missing_file_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        Predictions.load(tmp_path / "none.csv")


def test_the_file_is_a_plain_csv(tmp_path: Path) -> None:
    awkward().save(tmp_path / "p.csv")
    with (tmp_path / "p.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    assert rows[2]["name"] == "line\nbreak.png"
    assert rows[0]["label"] == AWKWARD[0]
    assert rows[1]["logit:logit:x"] == "1e-08"
