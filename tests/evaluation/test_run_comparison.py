"""Comparing two classifiers: hand counts, brute force, and errors of one line; and the page of it."""

import numpy as np
import pytest
import sklearn.metrics
import torch

from litlens.errors import UserError
from litlens.evaluation.predictions import Predictions
from litlens.evaluation.run_comparison import compare, mcnemar, render_comparison


def test_mcnemar_by_hand() -> None:
    assert mcnemar(0, 6) == pytest.approx(2 * 0.5**6)
    assert mcnemar(1, 9) == pytest.approx(2 * (1 + 10) * 0.5**10)
    assert mcnemar(5, 5) == pytest.approx(1)
    assert mcnemar(0, 0) == 1


def test_differences_and_disagreements(made_up) -> None:
    first, second = made_up(400, 4, strength=1.0), made_up(400, 4, strength=1.6, seed=1)
    result = compare(first, second)
    right_one, right_two = first.predicted == first.labels, second.predicted == second.labels
    assert result.only_first.tolist() == np.flatnonzero(right_one & ~right_two).tolist()
    assert result.only_second.tolist() == np.flatnonzero(~right_one & right_two).tolist()
    assert result.accuracy.value == pytest.approx(right_two.mean() - right_one.mean())

    def f1(some: Predictions, rows: np.ndarray) -> float:
        return float(sklearn.metrics.f1_score(some.labels[rows], some.predicted[rows], average="macro"))

    everything = np.arange(400)
    assert result.f1.value == pytest.approx(f1(second, everything) - f1(first, everything))
    generator = np.random.default_rng(5)
    drawn = [generator.integers(400, size=400) for _ in range(1000)]
    accuracy = [(right_two[rows].astype(int) - right_one[rows]).mean() for rows in drawn]
    by_hand = np.quantile(accuracy, [0.025, 0.975])
    np.testing.assert_allclose([result.accuracy.low, result.accuracy.high], by_hand, atol=0.01)
    by_hand = np.quantile([f1(second, rows) - f1(first, rows) for rows in drawn], [0.025, 0.975])
    np.testing.assert_allclose([result.f1.low, result.f1.high], by_hand, atol=0.01)


def test_samples_are_matched_by_name(made_up) -> None:
    first, second = made_up(200, 4, strength=1.0), made_up(200, 4, strength=1.6, seed=1)
    rows = np.random.default_rng(0).permutation(200)
    names = [second.names[row] for row in rows]
    shuffled = Predictions(second.logits[rows], second.labels[rows], names, second.class_names)
    one, other = compare(first, second), compare(first, shuffled)
    assert one.accuracy == other.accuracy
    assert one.only_second.tolist() == other.only_second.tolist()


def test_a_classifier_against_itself(made_up) -> None:
    some = made_up(200, 4, strength=1.0)
    result = compare(some, some, resamples=100)
    assert (result.accuracy.low, result.accuracy.high, result.p_value) == (0, 0, 1)


@pytest.mark.parametrize("classes", [10, 62])
def test_ten_thousand_resamples_of_ten_thousand_samples_are_quick_and_seeded(
    made_up, processor_seconds, classes: int
) -> None:
    first, second = (made_up(10_000, classes, strength=4.0, seed=seed) for seed in (0, 1))
    states = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    results = []
    assert processor_seconds(lambda: results.append(compare(first, second))) < 2
    result, again, _ = results
    assert again.f1 == result.f1
    assert compare(first, second, seed=1).f1 != result.f1
    assert states == (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


def test_runs_that_cannot_be_compared_are_refused_in_one_line(made_up) -> None:
    some = made_up(20, 4, strength=1.0)
    fewer = Predictions(some.logits[:15], some.labels[:15], some.names[:15], some.class_names)
    with pytest.raises(UserError, match="tested on 20 and 15 samples, of which 15 are the same"):
        compare(some, fewer)
    with pytest.raises(UserError, match="class names differ"):
        compare(some, Predictions(some.logits, some.labels, some.names, list("abcd")))
    with pytest.raises(UserError, match="labels of some samples differ"):
        compare(some, Predictions(some.logits, (some.labels + 1) % 4, some.names, some.class_names))


def shuffled(some: Predictions) -> Predictions:
    rows = np.random.default_rng(0).permutation(len(some))
    return Predictions(some.logits[rows], some.labels[rows], [some.names[k] for k in rows], some.class_names)


def test_what_is_shown_is_what_they_disagree_on(made_up, noise, page) -> None:
    first, second = made_up(400, 3, strength=1.0), shuffled(made_up(400, 3, strength=2.5, seed=1))
    result = compare(first, second)
    read = page(render_comparison({"a/<1>": first, "b/2": second}, {"b/2": result}, image=noise))
    assert f"Only run 2 is correct: {len(result.only_second)}" in read.text
    assert f"Only run 1 is correct: {len(result.only_first)}" in read.text
    assert "b/2 is significantly better" in read.text
    rows = {row[0]: row[1:] for row in read.rows}
    assert rows["Accuracy"][0] == f"{100 * (second.correct.mean() - first.correct.mean()):+.2f} points"
    assert rows["1"][0] == "a/<1>"
    shown = [image["alt"] for image in read.all("img")]
    expected = {first.names[k] for k in [*result.only_first, *result.only_second]}
    assert set(shown) <= expected
    assert len(shown) == min(24, len(result.only_first)) + min(24, len(result.only_second))


def test_equal_runs_do_not_differ(made_up, noise, page) -> None:
    one = made_up(100, 3, strength=1.0)
    read = page(render_comparison({"a": one, "b": one}, {"b": compare(one, one)}, image=noise))
    assert "Both models predict every image alike." in read.text
    other = one.logits.copy()
    wrong = int(np.flatnonzero(~one.correct)[0])
    third = next(k for k in range(one.num_classes) if k not in (one.labels[wrong], one.predicted[wrong]))
    other[wrong, third] = 99
    differs = Predictions(other, one.labels, one.names, one.class_names)
    text = page(render_comparison({"a": one, "b": differs}, {"b": compare(one, differs)}, image=noise)).text
    assert "every image alike" not in text
    assert "correct on the same images; 1 of the others" in text
    assert "The difference is not significant" in read.text
    assert not read.all("img")
