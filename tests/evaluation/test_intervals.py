"""Intervals against their formulas, SciPy, brute force, and how often they hold the truth."""

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import torch

from litlens.evaluation import scores
from litlens.evaluation.scores import bootstrap_intervals


def test_wilson_against_published_values() -> None:
    # Newcombe 1998, Statistics in Medicine 17, table I: method 3 at 81/263, 15/148, 0/20 and 1/29.
    for hits, trials, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        interval = scores.wilson_interval(hits, trials)
        assert (round(interval.low, 4), round(interval.high, 4)) == (low, high)
        assert interval.value == hits / trials


def test_wilson_covers_the_truth_as_often_as_it_says() -> None:
    hits = np.random.default_rng(0).binomial(98, 0.96, size=1000)
    of_hits = {k: scores.wilson_interval(int(k), 98) for k in np.unique(hits)}
    covered = np.mean([of_hits[k].low <= 0.96 <= of_hits[k].high for k in hits])
    assert 0.93 <= covered <= 0.97
    # A bootstrap of the same samples promises as much and keeps 0.89.
    resampled = {k: scipy.stats.binom.ppf([0.025, 0.975], 98, k / 98) / 98 for k in of_hits}
    assert np.mean([resampled[k][0] <= 0.96 <= resampled[k][1] for k in hits]) == pytest.approx(0.89, abs=0.02)


def test_resampled_counts_are_multinomial() -> None:
    counts = np.array([1, 500, 3, 0, 40, 5, 2, 449])
    drawn = np.concatenate(
        list(scores.resampled_counts(counts, resamples=20_000, generator=np.random.default_rng(0)))
    ).astype(np.float64)
    assert drawn.shape == (20_000, 8)
    assert np.all(drawn.sum(axis=1) == 1000)
    share = counts / 1000
    np.testing.assert_allclose(drawn.mean(axis=0), counts, atol=0.6)
    expected = 1000 * (np.diag(share) - np.outer(share, share))
    np.testing.assert_allclose(np.cov(drawn.T), expected, atol=0.04 * expected.max())
    # The rarest cell's whole distribution, since its mean and variance alone would not show a wrong draw.
    seen = np.bincount(drawn[:, 0].astype(int), minlength=5)[:5] / 20_000
    np.testing.assert_allclose(seen, scipy.stats.binom.pmf(np.arange(5), 1000, 0.001), atol=0.01)


def test_bootstrap_of_macro_f1_equals_drawing_every_sample(made_up) -> None:
    some = made_up(300, 4, strength=1.0)
    generator = np.random.default_rng(7)
    drawn = [generator.integers(300, size=300) for _ in range(1500)]
    brute = [sklearn.metrics.f1_score(some.labels[rows], some.predicted[rows], average="macro") for rows in drawn]
    interval = bootstrap_intervals(some)["f1"]
    assert interval.value == pytest.approx(sklearn.metrics.f1_score(some.labels, some.predicted, average="macro"))
    np.testing.assert_allclose([interval.low, interval.high], np.quantile(brute, [0.025, 0.975]), atol=0.008)


def test_bootstrap_of_the_loss_equals_scipys(made_up) -> None:
    some = made_up(300, 4, strength=1.0)
    expected = scipy.stats.bootstrap(
        (scores.sample_losses(some),), np.mean, n_resamples=5000, method="percentile", rng=1
    ).confidence_interval
    interval = bootstrap_intervals(some)["loss"]
    np.testing.assert_allclose([interval.low, interval.high], expected, rtol=0.02)


def test_bootstrap_follows_its_seed_and_leaves_the_global_states_alone(made_up) -> None:
    some = made_up(200, 3, strength=1.0)
    before = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    first, again = bootstrap_intervals(some, resamples=200), bootstrap_intervals(some, resamples=200)
    assert first == again
    assert first != bootstrap_intervals(some, resamples=200, seed=1)
    assert before == (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


@pytest.mark.parametrize("classes", [10, 62])
def test_ten_thousand_resamples_of_ten_thousand_samples_are_quick(made_up, processor_seconds, classes: int) -> None:
    some = made_up(10_000, classes, strength=4.0)
    assert processor_seconds(lambda: bootstrap_intervals(some, resamples=10_000)) < 2


def test_noise_is_what_two_equal_classifiers_differ_by() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.binomial(1000, 0.95, size=(2, 20_000)) / 1000
    noise = scores.noise_difference(950, 1000)
    assert noise == pytest.approx(np.quantile(np.abs(first - second), 0.95), abs=0.001)
    assert 0 < scores.noise_difference(98, 98) < 0.06
