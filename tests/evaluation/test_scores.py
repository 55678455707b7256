"""Scores against hand counts, torchmetrics, scikit-learn and torch."""

import numpy as np
import pytest
import sklearn.metrics
import torch
import torchmetrics.functional.classification as reference

from litlens.evaluation import scores
from litlens.evaluation.predictions import Predictions


def by_hand() -> Predictions:
    """Six samples of three classes: 0 correct twice and predicted as 1 once; 1 predicted as 2 twice; 2 correct once."""
    predicted = np.array([0, 0, 1, 2, 2, 2])
    return Predictions(np.eye(3)[predicted], [0, 0, 0, 1, 1, 2], list("uvwxyz"), ["a", "b", "c"])


def test_a_hand_count() -> None:
    some = by_hand()
    assert some.confusion_matrix.tolist() == [[2, 1, 0], [0, 0, 2], [0, 0, 1]]
    assert scores.row_shares(np.array([[0, 0], [1, 3]])).tolist() == [[0, 0], [0.25, 0.75]]
    assert scores.accuracy(some).value == 0.5
    # -log(e / (e + 2)) for the three right ones, -log(1 / (e + 2)) for the others
    assert scores.loss(some) == pytest.approx(np.log(np.e + 2) - 0.5, rel=1e-12)
    table = scores.class_table(some)
    assert [(row.name, row.labelled, row.predicted) for row in table] == [
        ("a", 3, 2),
        ("b", 2, 1),
        ("c", 1, 3),
    ]
    assert [row.precision for row in table] == pytest.approx([1, 0, 1 / 3])
    assert [row.recall for row in table] == pytest.approx([2 / 3, 0, 1])
    assert [row.f1 for row in table] == pytest.approx([0.8, 0, 0.5])
    pairs = scores.most_confused(some)
    assert [(p.label, p.predicted, p.count, p.share) for p in pairs] == [(1, 2, 2, 1.0), (0, 1, 1, 1 / 3)]
    assert scores.most_confused(some, limit=1) == pairs[:1]
    assert scores.highest_losses(some).tolist() == [2, 3, 4, 0, 1, 5]


@pytest.mark.parametrize("classes", [2, 10, 62])
def test_as_torchmetrics_scikit_learn_and_torch_count(made_up, classes: int) -> None:
    some = made_up(3000, classes, strength=2.0)
    labels, predicted = torch.from_numpy(some.labels), torch.from_numpy(some.predicted)
    expected = reference.multiclass_confusion_matrix(predicted, labels, classes)
    assert some.confusion_matrix.tolist() == expected.tolist()
    normalized = sklearn.metrics.confusion_matrix(
        some.labels, some.predicted, labels=np.arange(classes), normalize="true"
    )
    np.testing.assert_allclose(scores.row_shares(some.confusion_matrix), normalized, rtol=1e-12)
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
    assert scores.sample_losses(some).tolist() == [2000, 3000]
    assert scores.highest_losses(some).tolist() == [1, 0]


def test_the_table_is_scikit_learns_to_the_last_bit(made_up) -> None:
    some = made_up(300, 5, strength=1.0)
    some.labels[some.labels == 3] = 2  # a class without a sample
    columns = sklearn.metrics.precision_recall_fscore_support(
        some.labels, some.predicted, labels=range(5), zero_division=0.0
    )
    table = scores.class_table(some)
    assert [(row.precision, row.recall, row.f1, row.labelled) for row in table] == list(zip(*columns, strict=True))
    assert [row.predicted for row in table] == np.bincount(some.predicted, minlength=5).tolist()
