"""Runs side by side: every number is the second's against the first's, and every image is one they disagree on."""

import numpy as np

from litlens.evaluation.comparison import compare
from litlens.evaluation.predictions import Predictions
from litlens.evaluation.report.comparison_page import render_comparison


def shuffled(some: Predictions) -> Predictions:
    rows = np.random.default_rng(0).permutation(len(some))
    return Predictions(some.logits[rows], some.labels[rows], [some.names[k] for k in rows], some.class_names)


def test_what_is_shown_is_what_they_disagree_on(made_up, noise, page) -> None:
    first, second = made_up(400, 3, strength=1.0), shuffled(made_up(400, 3, strength=2.5, seed=1))
    result = compare(first, second)
    read = page(render_comparison({"a/<1>": first, "b/2": second}, {"b/2": result}, image=noise))
    assert f"Only run 2 gets right: {len(result.only_second)}" in read.text
    assert f"Only run 1 gets right: {len(result.only_first)}" in read.text
    assert "b/2 is better" in read.text
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
    assert "No difference that chance would not explain." in read.text
    assert not read.all("img")
