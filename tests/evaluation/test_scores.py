"""Scores and their intervals against hand counts, formulas, torchmetrics, scikit-learn, SciPy and brute force."""

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import torch
import torchmetrics.functional.classification as reference
from sklearn.metrics import average_precision_score, precision_recall_curve
from torch.utils.tensorboard.summary import compute_curve

from litlens.evaluation import scores
from litlens.evaluation.figures import precision_recall_figure
from litlens.evaluation.predictions import Predictions
from litlens.evaluation.scores import bootstrap_intervals, precision_recall_curves
from litlens.evaluation.style import pixels


def by_hand() -> Predictions:
    """Six samples of three classes: 0 correct twice and predicted as 1 once; 1 predicted as 2 twice; 2 correct once."""
    predicted = np.array([0, 0, 1, 2, 2, 2])
    return Predictions(np.eye(3)[predicted], [0, 0, 0, 1, 1, 2], list("uvwxyz"), ["a", "b", "c"])


def test_a_hand_count() -> None:
    some = by_hand()
    assert some.confusion_matrix.tolist() == [[2, 1, 0], [0, 0, 2], [0, 0, 1]]
    assert scores.accuracy(some).value == 0.5
    # -log(e / (e + 2)) for the three right ones, -log(1 / (e + 2)) for the others
    assert scores.loss(some) == pytest.approx(np.log(np.e + 2) - 0.5, rel=1e-12)
    table = scores.class_table(some)
    assert [(row.name, row.labeled, row.predicted) for row in table] == [
        ("a", 3, 2),
        ("b", 2, 1),
        ("c", 1, 3),
    ]
    assert [row.precision for row in table] == pytest.approx([1, 0, 1 / 3])
    assert [row.recall for row in table] == pytest.approx([2 / 3, 0, 1])
    assert [row.f1 for row in table] == pytest.approx([0.8, 0, 0.5])
    pairs = scores.most_confused(some)
    assert [(p.label, p.predicted, p.count, p.fraction) for p in pairs] == [(1, 2, 2, 1.0), (0, 1, 1, 1 / 3)]
    assert scores.most_confused(some, limit=1) == pairs[:1]
    assert scores.highest_losses(some).tolist() == [2, 3, 4, 0, 1, 5]


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of cleanlab's own imports
def test_label_errors_are_those_of_cleanlab_in_its_order(made_up, classes: int) -> None:
    """A tenth of the labels is shifted by one class; the classes differ in how confident their predictions are."""
    filters = pytest.importorskip("cleanlab.filter")
    some = made_up(1500, classes, strength=2.5)
    shifted = np.arange(1500) % 10 == 0
    labels = np.where(shifted, (some.labels + 1) % classes, some.labels)
    logits = some.logits * np.linspace(0.3, 1.5, classes, dtype=np.float32)
    noisy = Predictions(logits, labels, some.names, some.class_names)
    expected = filters.find_label_issues(
        labels,
        noisy.probabilities,
        filter_by="confident_learning",
        return_indices_ranked_by="self_confidence",
        n_jobs=1,
    )
    found = scores.label_errors(noisy)
    assert len(found) > 50
    assert found.tolist() == expected.tolist()
    assert shifted[found].mean() > 0.5


def test_label_errors_need_finite_logits() -> None:
    logits = np.float32([[9, 0], [9, 0], [0, 9], [0, 9], [9, 0], [np.nan, 0], [np.inf, 0]])
    some = Predictions(logits, [0, 0, 1, 1, 1, 1, 1], list("abcdefg"), ["p", "q"])
    assert scores.label_errors(some).tolist() == [4]


@pytest.mark.parametrize("classes", [2, 10, 62])
def test_as_torchmetrics_scikit_learn_and_torch_count(made_up, classes: int) -> None:
    some = made_up(3000, classes, strength=2.0)
    labels, predicted = torch.from_numpy(some.labels), torch.from_numpy(some.predicted)
    expected = reference.multiclass_confusion_matrix(predicted, labels, classes)
    assert some.confusion_matrix.tolist() == expected.tolist()
    assert scores.accuracy(some).value == sklearn.metrics.accuracy_score(some.labels, some.predicted)
    expected_loss = torch.nn.functional.cross_entropy(torch.from_numpy(some.logits).double(), labels)
    assert scores.loss(some) == pytest.approx(float(expected_loss), rel=1e-12)
    macro = scores.macro(some)
    for name in ("precision", "recall", "f1"):
        function = getattr(reference, f"multiclass_{name}" if name != "f1" else "multiclass_f1_score")
        per_class = function(predicted, labels, num_classes=classes, average="none").numpy()
        np.testing.assert_allclose([getattr(r, name) for r in scores.class_table(some)], per_class, atol=1e-6)
        average = function(predicted, labels, num_classes=classes, average="macro")
        assert macro[name] == pytest.approx(float(average), abs=1e-6)


def test_macro_leaves_out_classes_that_never_occur_as_torchmetrics_does() -> None:
    logits = np.eye(5)[[0, 1, 1, 3]]
    some = Predictions(logits, [0, 1, 0, 1], list("abcd"), list("vwxyz"))
    for name, function in (("f1", reference.multiclass_f1_score), ("recall", reference.multiclass_recall)):
        expected = function(torch.from_numpy(some.predicted), torch.from_numpy(some.labels), num_classes=5)
        assert scores.macro(some)[name] == pytest.approx(float(expected), abs=1e-7)
    assert scores.macro(some)["f1"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)


def test_losses_stay_finite_where_probabilities_underflow() -> None:
    some = Predictions(np.array([[0.0, 2000.0], [0.0, 3000.0]]), [0, 0], ["a", "b"], ["x", "y"])
    assert some.losses.tolist() == [2000, 3000]
    assert scores.highest_losses(some).tolist() == [1, 0]


def test_the_table_is_scikit_learns_to_the_last_bit(made_up) -> None:
    some = made_up(300, 5, strength=1.0)
    some.labels[some.labels == 3] = 2  # a class without a sample
    columns = sklearn.metrics.precision_recall_fscore_support(
        some.labels, some.predicted, labels=range(5), zero_division=0.0
    )
    table = scores.class_table(some)
    assert [(row.precision, row.recall, row.f1, row.labeled) for row in table] == list(zip(*columns, strict=True))
    assert [row.predicted for row in table] == np.bincount(some.predicted, minlength=5).tolist()


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
        (some.losses,), np.mean, n_resamples=5000, method="percentile", rng=1
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
    assert scores.number_of_resamples(len(some)) == 10_000
    assert processor_seconds(lambda: bootstrap_intervals(some)) < 2


def test_noise_is_what_two_equal_classifiers_differ_by() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.binomial(1000, 0.95, size=(2, 20_000)) / 1000
    noise = scores.noise_difference(950, 1000)
    assert noise == pytest.approx(np.quantile(np.abs(first - second), 0.95), abs=0.001)
    assert 0 < scores.noise_difference(98, 98) < 0.06


@pytest.mark.parametrize("classes", [2, 7])
def test_the_curves_are_scikit_learns(made_up, classes: int) -> None:
    some = made_up(500, classes, strength=1.0)
    # Rounded, many have the same logits: equal scores are one threshold.
    rounded = Predictions(some.logits.round(), some.labels, some.names, some.class_names)
    for some in (made_up(500, classes, strength=1.0), rounded):
        curves = precision_recall_curves(some)
        assert [curve.name for curve in curves] == list(some.class_names)
        for label, curve in enumerate(curves):
            positive, scores = some.labels == label, some.log_probabilities[:, label]
            assert curve.average_precision == pytest.approx(average_precision_score(positive, scores))
            precision, recall, _ = precision_recall_curve(positive, scores, drop_intermediate=True)
            assert (curve.precision.tolist(), curve.recall.tolist()) == (precision.tolist(), recall.tolist())


@pytest.mark.parametrize("classes", [range(40), range(17, 18)])
def test_the_curves_of_tensorboard_are_those_of_torch(made_up, classes: range) -> None:
    some = made_up(500, 40, strength=2.0)
    some.logits[0] = 500 * np.eye(40)[1]  # a probability of 1
    own = (some.labels[:, None] == np.array(classes)).ravel()
    expected = compute_curve(own, some.probabilities[:, classes].ravel(), num_thresholds=127)
    assert scores.threshold_counts(some, classes).tolist() == expected.tolist()


def test_a_class_without_samples_has_no_curve_and_nothing_warns() -> None:
    some = Predictions(np.eye(3, dtype=np.float32)[[0, 2]], np.array([0, 2]), ["x", "y"], ["a", "b", "c"])
    assert [curve.name for curve in precision_recall_curves(some)] == ["a", "c"]


def test_many_classes_name_the_worst_and_leave_the_others_gray(made_up) -> None:
    curves = precision_recall_curves(made_up(3000, 62, strength=2.0))
    axes = precision_recall_figure(curves).axes[0]
    words = [text.get_text() for text in axes.get_legend().get_texts()]
    worst = sorted(curves, key=lambda curve: curve.average_precision)
    assert words[0].split("  ")[0] == worst[0].name
    assert words[-1] == "56 others"
    assert len(words) == 7
    assert len(axes.lines) + len(axes.collections[0].get_segments()) == 62
    mean = np.mean([curve.average_precision for curve in curves])
    assert axes.get_title(loc="left").endswith(f"{100 * mean:.2f} %")


@pytest.mark.parametrize("number", [0, 1, 2, 62])
def test_any_number_of_classes_is_drawn_without_a_warning(made_up, number: int) -> None:
    curves = precision_recall_curves(made_up(400, max(number, 1), strength=3.0))[:number]
    pixels(precision_recall_figure(curves))
