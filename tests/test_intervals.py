"""Medians, spreads and bootstrapped ratios, on samples whose answers are known."""

from __future__ import annotations

import random

import pytest

from localllm.speed.intervals import Interval, paired_ratio, relative_spread, unpaired_ratio


def test_the_spread_is_the_median_distance_from_the_median() -> None:
    assert relative_spread([10, 10, 10]) == 0
    assert relative_spread([8, 9, 10, 12, 100]) == pytest.approx(0.2)


def test_a_constant_ratio_is_certain() -> None:
    below = [3.0, 5.0, 4.0, 9.0, 2.0]
    found = paired_ratio([2 * value for value in below], below)
    assert found == Interval(2, 2, 2)
    assert found.is_real


def test_pairs_cancel_a_drift_that_hides_the_difference_otherwise() -> None:
    drift = [1.0, 2.0, 4.0, 8.0, 16.0]
    faster = [1.1 * value for value in drift]
    assert paired_ratio(faster, drift).is_real
    assert not unpaired_ratio(faster, drift).is_real


def test_five_pairs_give_their_whole_range() -> None:
    # Three or more of five draws hit the lowest in 5.8 %, more than the 2.5 % of a tail.
    found = paired_ratio([1, 2, 3, 4, 100], [1, 1, 1, 1, 1])
    assert (found.ratio, found.low, found.high) == (3, 1, 100)
    assert not found.is_real


@pytest.mark.parametrize(
    ("low", "high", "real"), [(1.01, 2, True), (0.5, 0.9, True), (1, 3, False)]
)
def test_real_is_one_outside_the_interval(low: float, high: float, real: bool) -> None:
    assert Interval(1.5, low, high).is_real is real


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    numbers = random.Random(7)
    n_trials = 200
    held = 0
    for _ in range(n_trials):
        above = [numbers.gauss(120, 6) for _ in range(15)]
        below = [numbers.gauss(100, 5) for _ in range(15)]
        found = unpaired_ratio(above, below)
        held += found.low <= 1.2 <= found.high
    assert 0.90 <= held / n_trials <= 1


def test_the_same_samples_give_the_same_interval() -> None:
    samples = ([5.0, 6.0, 5.5, 7.0, 5.2], [4.0, 4.4, 4.1, 5.0, 4.2])
    assert unpaired_ratio(*samples) == unpaired_ratio(*samples)
