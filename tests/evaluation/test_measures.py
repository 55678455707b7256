"""Measures against hand counts, torchmetrics, scikit-learn, torch and cleanlab."""

import numpy as np
import pytest
import sklearn.metrics
import torch
import torchmetrics.functional.classification as reference

from litlens.evaluation import measures
from litlens.evaluation.predictions import Predictions


def by_hand() -> Predictions:
    """Six samples of three classes: 0 right twice and taken for 1 once; 1 taken for 2 twice; 2 right once."""
    predicted = np.array([0, 0, 1, 2, 2, 2])
    return Predictions(np.eye(3)[predicted], [0, 0, 0, 1, 1, 2], list("uvwxyz"), ["a", "b", "c"])


def test_a_hand_count() -> None:
    some = by_hand()
    assert measures.confusion_matrix(some).tolist() == [[2, 1, 0], [0, 0, 2], [0, 0, 1]]
    assert measures.row_shares(np.array([[0, 0], [1, 3]])).tolist() == [[0, 0], [0.25, 0.75]]
    assert measures.accuracy(some).value == 0.5
    # -log(e / (e + 2)) for the three right ones, -log(1 / (e + 2)) for the others
    assert measures.loss(some) == pytest.approx(np.log(np.e + 2) - 0.5, rel=1e-12)
    table = measures.class_table(some)
    assert [(row.name, row.labelled, row.predicted) for row in table] == [
        ("a", 3, 2),
        ("b", 2, 1),
        ("c", 1, 3),
    ]
    assert [row.precision for row in table] == pytest.approx([1, 0, 1 / 3])
    assert [row.recall for row in table] == pytest.approx([2 / 3, 0, 1])
    assert [row.f1 for row in table] == pytest.approx([0.8, 0, 0.5])
    pairs = measures.most_confused(some)
    assert [(p.label, p.predicted, p.count, p.share) for p in pairs] == [(1, 2, 2, 1.0), (0, 1, 1, 1 / 3)]
    assert measures.most_confused(some, limit=1) == pairs[:1]
    assert measures.highest_losses(some).tolist() == [2, 3, 4, 0, 1, 5]
    assert measures.suspected_label_errors(some, limit=2).tolist() == [2, 3]


@pytest.mark.parametrize("classes", [2, 10, 62])
def test_as_torchmetrics_scikit_learn_and_torch_count(made_up, classes: int) -> None:
    some = made_up(3000, classes, strength=2.0)
    labels, predicted = torch.from_numpy(some.labels), torch.from_numpy(some.predicted)
    expected = reference.multiclass_confusion_matrix(predicted, labels, classes)
    assert measures.confusion_matrix(some).tolist() == expected.tolist()
    normalized = sklearn.metrics.confusion_matrix(
        some.labels, some.predicted, labels=np.arange(classes), normalize="true"
    )
    np.testing.assert_allclose(measures.row_shares(measures.confusion_matrix(some)), normalized, rtol=1e-12)
    assert measures.accuracy(some).value == sklearn.metrics.accuracy_score(some.labels, some.predicted)
    expected_loss = torch.nn.functional.cross_entropy(torch.from_numpy(some.logits).double(), labels)
    assert measures.loss(some) == pytest.approx(float(expected_loss), rel=1e-12)
    macro = measures.macro(some)
    for name in ("precision", "recall", "f1"):
        function = getattr(reference, f"multiclass_{name}" if name != "f1" else "multiclass_f1_score")
        per_class = function(predicted, labels, num_classes=classes, average="none").numpy()
        np.testing.assert_allclose([getattr(r, name) for r in measures.class_table(some)], per_class, atol=1e-6)
        average = function(predicted, labels, num_classes=classes, average="macro")
        assert macro[name] == pytest.approx(float(average), abs=1e-6)


def test_macro_leaves_out_classes_that_never_occur_as_torchmetrics_does() -> None:
    logits = np.eye(5)[[0, 1, 1, 3]]
    some = Predictions(logits, [0, 1, 0, 1], list("abcd"), list("vwxyz"))
    for name, function in (("f1", reference.multiclass_f1_score), ("recall", reference.multiclass_recall)):
        expected = function(torch.from_numpy(some.predicted), torch.from_numpy(some.labels), num_classes=5)
        assert measures.macro(some)[name] == pytest.approx(float(expected), abs=1e-7)
    assert measures.macro(some)["f1"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)


def test_label_errors_rank_as_cleanlab_ranks_them(made_up) -> None:
    rank = pytest.importorskip("cleanlab.rank", reason="cleanlab is not installed")
    some = made_up(2000, 10, strength=2.0)
    expected = rank.get_label_quality_scores(some.labels, some.probabilities, method="self_confidence")
    np.testing.assert_array_equal(measures.self_confidence(some), expected)
    assert measures.highest_losses(some).tolist() == np.argsort(expected, kind="stable").tolist()
    suspects = measures.suspected_label_errors(some)
    assert len(suspects) == int((~some.correct).sum())
    assert np.all(np.diff(expected[suspects]) >= 0)


def test_a_wrong_label_is_the_first_suspect(made_up) -> None:
    some = made_up(500, 10, strength=8.0)
    labels = some.labels.copy()
    labels[123] = (labels[123] + 1) % 10
    wrong = Predictions(some.logits, labels, some.names, some.class_names)
    assert measures.suspected_label_errors(wrong, limit=1).tolist() == [123]


def test_losses_stay_finite_where_probabilities_underflow() -> None:
    some = Predictions(np.array([[0.0, 2000.0], [0.0, 3000.0]]), [0, 0], ["a", "b"], ["x", "y"])
    assert measures.sample_losses(some).tolist() == [2000, 3000]
    assert measures.self_confidence(some).tolist() == [0, 0]
    assert measures.suspected_label_errors(some).tolist() == [1, 0]


def test_the_table_is_scikit_learns_to_the_last_bit(made_up) -> None:
    some = made_up(300, 5, strength=1.0)
    some.labels[some.labels == 3] = 2  # a class without a sample
    columns = sklearn.metrics.precision_recall_fscore_support(
        some.labels, some.predicted, labels=range(5), zero_division=0.0
    )
    table = measures.class_table(some)
    assert [(row.precision, row.recall, row.f1, row.labelled) for row in table] == list(zip(*columns, strict=True))
    assert [row.predicted for row in table] == np.bincount(some.predicted, minlength=5).tolist()
