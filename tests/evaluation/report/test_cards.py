"""Which samples are shown: the worst first, all classes, never more than there is room for."""

import numpy as np
import pytest

from litlens.evaluation.report.cards import least_sure, ranking, sample_card, shown_samples, worst_mistakes


def test_the_ranking_of_three() -> None:
    assert ranking(np.array([0.1, 0.4, 0.1, 0.4]), ["a", "b", "c", "d"]) == [("b", 0.4), ("d", 0.4), ("a", 0.1)]
    assert ranking(np.array([0.3, 0.7]), ["no", "yes"]) == [("yes", 0.7), ("no", 0.3)]


def test_the_worst_mistakes_are_wrong_and_sorted(made_up) -> None:
    some = made_up(200, 3, strength=1.0)
    losses = -np.log(some.probabilities[np.arange(200), some.labels])
    wrong = [k for k in np.argsort(-losses) if some.logits[k].argmax() != some.labels[k]]
    assert worst_mistakes(some, limit=7) == wrong[:7]
    assert worst_mistakes(some, limit=500) == wrong
    right = [k for k in np.argsort(-losses) if some.predicted[k] == some.labels[k]]
    assert least_sure(some, limit=5) == right[:5]


def test_shown_samples_have_room_for_right_and_wrong_of_every_class(made_up) -> None:
    some = made_up(5000, 10, strength=2.0)
    shown = shown_samples(some, limit=200)
    assert len(shown) == len(set(shown)) == 200
    right = [k for k in shown if some.correct[k]]
    assert set(worst_mistakes(some, limit=100)) == set(shown) - set(right)
    assert np.bincount(some.labels[right], minlength=10).tolist() == [10] * 10
    for label in range(10):
        own = some.confidence[some.correct & (some.labels == label)]
        chosen = [some.confidence[k] for k in right if some.labels[k] == label]
        assert {own.min(), own.max()} <= set(chosen)
    losses = -np.log(some.probabilities[shown, some.labels[shown]])
    assert (np.diff(losses) <= 1e-12).all()


def test_more_classes_than_room(made_up) -> None:
    assert len(shown_samples(made_up(3000, 62, strength=9.0), limit=30)) == 30


def test_few_samples_are_all_shown(made_up) -> None:
    assert sorted(shown_samples(made_up(60, 2, strength=1.0), limit=60)) == list(range(60))


def test_a_card_tells_what_it_is(made_up) -> None:
    some = made_up(50, 4, strength=1.0)
    card = sample_card(some, 7, image="data:")
    assert (card.name, card.label) == ("test/00007", some.class_names[some.labels[7]])
    assert card.predicted == some.class_names[some.logits[7].argmax()]
    assert card.loss == pytest.approx(-np.log(some.probabilities[7, some.labels[7]]))
