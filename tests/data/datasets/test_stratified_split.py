"""Splits are disjoint, cover everything and have exact sizes, whatever the class sizes."""

from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from litlens.data.datasets.stratified_split import stratified_split

LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=120)
FRACTIONS = st.lists(st.integers(1, 9), min_size=2, max_size=4)


@given(labels=LABELS, fractions=FRACTIONS, seed=st.integers(0, 2**32))
def test_disjoint_covering_sorted_and_repeatable(labels: list[int], fractions: list[int], seed: int) -> None:
    parts = stratified_split(labels, fractions, seed=seed)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    assert all((np.diff(part) > 0).all() and part.dtype == np.int64 for part in parts)
    again = stratified_split(labels, fractions, seed=seed)
    assert all(np.array_equal(part, other) for part, other in zip(parts, again, strict=True))


@given(labels=LABELS, fractions=FRACTIONS)
def test_every_class_has_its_share_rounded_up_or_down(labels: list[int], fractions: list[int]) -> None:
    parts = stratified_split(labels, fractions, seed=0)
    for label, count in Counter(labels).items():
        for fraction, part in zip(fractions, parts, strict=True):
            exact = count * fraction / sum(fractions)
            assert abs(sum(labels[i] == label for i in part) - exact) < 1


@given(labels=LABELS, seed=st.integers(0, 99))
def test_two_parts_have_the_exact_total(labels: list[int], seed: int) -> None:
    # Unless classes of one sample keep it in training.
    train, val = stratified_split(labels, (3, 1), seed=seed)
    if min(Counter(labels).values()) >= 2:
        assert abs(len(val) - len(labels) / 4) <= 0.5
    assert set(np.array(labels)[train]) == set(labels)


def test_one_to_five_samples_of_two_to_four_classes() -> None:
    """Every class is in training; val has a sample if one can be spared, and test if two can."""
    for sizes in (sizes for k in (2, 3, 4) for sizes in product(range(1, 6), repeat=k)):
        labels = np.repeat(np.arange(len(sizes)), sizes)
        train, val, test = stratified_split(labels, (6, 3, 1), seed=0)
        assert set(labels[train]) == set(range(len(sizes))), sizes
        spare = sum(sizes) - len(sizes)
        assert (len(val) > 0, len(test) > 0) == (spare > 0, spare > 1), sizes


def test_sizes_by_hand() -> None:
    # 5 and 3 samples at 6:3:1. By class 3, 1.5, 0.5 and 1.8, 0.9, 0.3; in all 4.8, 2.4, 0.8.
    parts = stratified_split([0] * 5 + [1] * 3, (6, 3, 1), seed=0)
    assert [len(part) for part in parts] == [5, 2, 1]
    assert [sum(i < 5 for i in part) for part in parts] == [3, 1, 1]


def test_mnist_is_split_into_round_numbers() -> None:
    # Class counts of MNIST's 60,000; class by class, 10 % of them would come to 5,999.
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    train, val = stratified_split(np.repeat(np.arange(10), counts), (9, 1), seed=0)
    assert (len(train), len(val)) == (54_000, 6_000)


def test_k_equal_fractions_are_folds() -> None:
    folds = stratified_split([0] * 50 + [1] * 3, [1] * 5, seed=0)
    assert sorted(len(fold) for fold in folds) == [10, 10, 11, 11, 11]


def test_the_seed_decides() -> None:
    first, second = (stratified_split([0, 1] * 50, (1, 1), seed=seed)[0] for seed in (0, 1))
    assert not np.array_equal(first, second)


@given(
    samples=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 15)), min_size=1, max_size=100),
    seed=st.integers(0, 99),
)
def test_a_group_is_never_divided(samples: list[tuple[int, int]], seed: int) -> None:
    labels, groups = zip(*samples, strict=True)
    parts = stratified_split(labels, (6, 3, 1), seed=seed, groups=groups)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    homes = [{groups[i] for i in part} for part in parts]
    assert sum(map(len, homes)) == len(set(groups))


@pytest.mark.parametrize("seed", range(5))
def test_groups_come_near_the_exact_sizes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(200), rng.integers(1, 6, 200))
    labels = rng.integers(0, 3, len(groups))
    parts = stratified_split(labels, (6, 3, 1), seed=seed, groups=groups.tolist())
    for fraction, part in zip((0.6, 0.3, 0.1), parts, strict=True):
        for label in range(3):
            assert abs((labels[part] == label).sum() - fraction * (labels == label).sum()) <= 4


def test_each_class_whose_groups_allow_it_is_in_training() -> None:
    parts = stratified_split([0, 0, 0, 1, 1], (6, 3, 1), seed=0, groups=["a", "b", "c", "d", "d"])
    assert {3, 4} <= set(parts[0].tolist())


def test_fractions_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        stratified_split([0, 1], (1, 0), seed=0)
