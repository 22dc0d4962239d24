"""Intervals and probabilities against scipy, hand computation and each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from replastic.errors import UserError
from replastic.report.statistics import (
    Estimate,
    mean_interval,
    paired_difference,
    probability_of_improvement,
)

SAMPLES = arrays(np.float64, st.integers(2, 12), elements=st.floats(-1e3, 1e3, width=32))


def test_interval_by_hand() -> None:
    estimate = mean_interval([1.0, 2.0, 3.0])
    # s = 1, t(0.975, 2) = 4.302653 (table), half width t / sqrt(3).
    assert estimate.mean == 2.0
    assert estimate.n == 3
    assert estimate.low == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-6)
    assert estimate.high == pytest.approx(2 + 4.302653 / math.sqrt(3), abs=1e-6)


@settings(deadline=None, max_examples=60)
@given(SAMPLES, st.sampled_from([0.8, 0.95, 0.99]))
def test_interval_equals_scipy(values: np.ndarray, level: float) -> None:
    estimate = mean_interval(values, level)
    spread = stats.sem(values)
    low, high = stats.t.interval(level, len(values) - 1, loc=values.mean(), scale=spread) if spread else [values[0]] * 2
    assert (estimate.low, estimate.high) == pytest.approx((low, high), rel=1e-9, abs=1e-9)


def test_interval_covers_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).normal(3.0, 2.0, size=(2000, 4))
    inside = np.mean([e.low <= 3.0 <= e.high for e in map(mean_interval, draws)])
    assert inside == pytest.approx(0.95, abs=0.02)  # four standard errors of 2000 draws


def test_one_value_has_no_interval() -> None:
    assert mean_interval([0.7]) == Estimate(0.7, None, None, 1)
    assert mean_interval([0.7]).verdict == "one seed"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_are_not_averaged_away(bad: float) -> None:
    estimate = mean_interval([0.5, bad, 0.6])
    assert math.isnan(estimate.mean)
    assert estimate.low is None
    assert estimate.verdict == "not finite"


def test_no_values_and_wrong_level_are_refused() -> None:
    with pytest.raises(UserError, match="at least one value"):
        mean_interval([])
    with pytest.raises(UserError, match="level"):
        mean_interval([1.0, 2.0], level=95)


@settings(deadline=None, max_examples=60)
@given(arrays(np.float64, (2, 5), elements=st.floats(-10, 10, width=32)))
def test_paired_verdict_agrees_with_the_paired_t_test(values: np.ndarray) -> None:
    a, b = values
    if np.ptp(b - a) < 1e-6:  # the t test divides by zero there
        return
    difference = paired_difference(dict(enumerate(b)), dict(enumerate(a)))
    assert difference is not None
    result = stats.ttest_rel(b, a)
    expected = "not settled" if result.pvalue > 0.05 else "higher" if result.statistic > 0 else "lower"
    if abs(result.pvalue - 0.05) > 1e-6:
        assert difference.verdict == expected


def test_pairs_are_the_common_seeds_alone() -> None:
    difference = paired_difference({0: 5.0, 1: 7.0, 9: 100.0}, {1: 4.0, 0: 1.0, 2: -50.0})
    assert difference is not None
    assert (difference.mean, difference.n) == (3.5, 2)
    assert paired_difference({0: 1.0}, {1: 1.0}) is None
    assert paired_difference({0: 1.5}, {0: 1.0}) == Estimate(0.5, None, None, 1)


@pytest.mark.parametrize(
    ("difference", "higher_is_better", "standing"),
    [
        (Estimate(1.0, 0.5, 1.5, 3), True, "better"),
        (Estimate(1.0, 0.5, 1.5, 3), False, "worse"),
        (Estimate(-1.0, -1.5, -0.5, 3), True, "worse"),
        (Estimate(-1.0, -1.5, -0.5, 3), False, "better"),
        (Estimate(1.0, -0.5, 2.5, 3), True, "not settled"),
        (Estimate(1.0, 0.0, 2.0, 3), True, "not settled"),
        (Estimate(1.0, None, None, 1), True, "one seed"),
        (Estimate(math.nan, None, None, 3), False, "not finite"),
    ],
)
def test_what_a_difference_means(difference: Estimate, higher_is_better: bool, standing: str) -> None:
    assert difference.standing(higher_is_better) == standing


@settings(deadline=None, max_examples=40)
@given(
    arrays(np.float64, st.integers(1, 7), elements=st.integers(0, 5).map(float)),
    arrays(np.float64, st.integers(1, 7), elements=st.integers(0, 5).map(float)),
)
def test_probability_of_improvement_is_the_mann_whitney_share(a: np.ndarray, b: np.ndarray) -> None:
    share = stats.mannwhitneyu(b, a, method="asymptotic").statistic / (len(a) * len(b))
    assert probability_of_improvement(a, b) == pytest.approx(share)
    assert probability_of_improvement(a, b) + probability_of_improvement(b, a) == pytest.approx(1)


def test_probability_of_improvement_by_hand() -> None:
    # Of the pairs (1, 2), (1, 3), (3, 2) and (3, 3) b wins two and ties one.
    assert probability_of_improvement([1.0, 3.0], [2.0, 3.0]) == (2 + 0.5) / 4
    with pytest.raises(UserError, match="at least one score"):
        probability_of_improvement([0.0], [])
