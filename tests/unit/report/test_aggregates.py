"""Interquartile mean, probability of improvement and profiles: by hand, and over every possible resample."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replastic.errors import UserError
from replastic.report import aggregates
from replastic.report.aggregates import improvement, interquartile_mean, iqm, profile


def scores(*rows: list[float]) -> np.ndarray:
    """Runs x games, one task each."""
    return np.array(rows, dtype=np.float64)[..., None]


def test_the_interquartile_mean_by_hand() -> None:
    assert interquartile_mean(np.array([1.0, 2, 3, 100])) == 2.5, "one of four is cut at either end"
    assert interquartile_mean(np.array([5.0, 1, 9])) == 5.0, "a quarter of three is none: the mean"
    assert interquartile_mean(np.array([[0.0, 10], [2, 30], [4, 50], [6, 70]])) == (4 + 6 + 10 + 30) / 4
    assert iqm(scores([0, 10], [2, 30], [4, 50], [6, 70])).mean == 12.5


def exact(values: np.ndarray, statistic) -> tuple[float, float]:
    """Ends of the interval over all resamples of two runs in each game, each as likely."""
    runs, games, _ = values.shape
    found = []
    for rows in product(product(range(runs), repeat=runs), repeat=games):
        taken = np.stack([values[list(rows[game]), game] for game in range(games)], axis=1)
        found.append(statistic(taken))
    return ends(found)


def ends(found: list[float]) -> tuple[float, float]:
    """Percentiles of numbers of which each is as likely as the next."""
    return tuple(np.percentile(found, [2.5, 97.5], method="inverted_cdf"))


def test_the_interval_of_the_interquartile_mean_is_that_of_all_resamples() -> None:
    values = scores([1, 20], [3, 60], [8, 30])
    found = iqm(values, draws=40_000)
    low, high = exact(values, interquartile_mean)
    # every share of the 729 resamples is known; the ends are order statistics of few different values
    assert found.low == pytest.approx(low, abs=0.8)
    assert found.high == pytest.approx(high, abs=0.8)
    assert found.n == 3
    two = iqm(scores([1.0], [3.0]), draws=1000)
    assert (two.mean, two.low, two.high) == (2.0, 1.0, 3.0), "1, 2 or 3 with shares 1/4, 1/2 and 1/4"


def test_tasks_of_one_run_are_drawn_together() -> None:
    together = np.array([[[0.0, 0, 0, 0]], [[1.0, 1, 1, 1]]])
    apart = together.reshape(2, 4, 1)
    (share, low, high), (_, lower, higher) = (profile(of, np.array([0.5])) for of in (together, apart))
    assert (share[0], low[0], high[0]) == (0.5, 0.0, 1.0)
    # of eight runs in games of their own, 1 to 7 are above: of 256 outcomes, 9 have at most one
    assert (lower[0], higher[0]) == (1 / 8, 7 / 8)


def test_the_probability_of_improvement_by_hand() -> None:
    # first game: of (2, 4) against (1, 3) three of four pairs are won; second: a tie and a loss in each row
    found = improvement(scores([1, 5], [3, 7]), scores([2, 5], [4, 5]), draws=500)
    assert found.mean == pytest.approx((3 / 4 + (0.5 + 0 + 0.5 + 0) / 4) / 2)
    assert found.low < found.mean < found.high
    assert found.n == 2


def test_the_interval_of_an_improvement_is_that_of_all_resamples() -> None:
    a, b = scores([1.0], [3.0]), scores([2.0], [4.0])
    found = improvement(a, b, draws=20_000)
    shares = [
        np.mean([[(y > x) + (y == x) / 2 for y in ys] for x in xs])
        for xs in product((1.0, 3.0), repeat=2)
        for ys in product((2.0, 4.0), repeat=2)
    ]
    assert (found.low, found.high) == ends(shares)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_improvement_is_antisymmetric_and_within_its_interval(
    n: int, m: int, games: int, tasks: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    a, b = (generator.integers(0, 4, (runs, games, tasks)).astype(float) for runs in (n, m))
    there, back = improvement(a, b, draws=50), improvement(b, a, draws=50)
    assert there.mean + back.mean == pytest.approx(1)
    direct = np.mean([(b[j] > a[i]).mean() + (b[j] == a[i]).mean() / 2 for i in range(n) for j in range(m)])
    assert there.mean == pytest.approx(direct)
    if min(n, m) == 1:
        assert there.low is None
    else:
        assert 0 <= there.low <= there.high <= 1


def test_a_profile_by_hand() -> None:
    share, low, high = profile(scores([1, 2], [3, 4]), np.array([0.0, 1.0, 2.5, 4.0]), draws=2000)
    assert share.tolist() == [1.0, 0.75, 0.5, 0.0], "a score at the level is not above it"
    assert low.tolist() == [1.0, 0.5, 0.0, 0.0]
    assert high.tolist() == [1.0, 1.0, 1.0, 0.0]


def test_chunks_of_the_bootstrap_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = scores([1, 5], [3, 7], [4, 4]), scores([2, 5], [4, 5], [5, 9])
    whole = iqm(a), improvement(a, b), profile(a, np.array([2.0, 4.5]))
    monkeypatch.setattr(aggregates, "CHUNK", 10_000)
    parts = iqm(a), improvement(a, b), profile(a, np.array([2.0, 4.5]))
    assert whole[0].low == pytest.approx(parts[0].low, abs=0.2)
    assert whole[1].mean == parts[1].mean
    assert np.allclose(whole[2][1], parts[2][1], atol=0.2)


def test_one_run_has_no_interval_and_a_missing_number_no_mean() -> None:
    assert (iqm(scores([2.0, 4.0])).mean, iqm(scores([2.0, 4.0])).low) == (3.0, None)
    assert np.isnan(iqm(scores([2.0], [np.nan])).mean)
    assert iqm(scores([2.0], [np.nan])).low is None
    assert np.isnan(improvement(scores([2.0], [np.inf]), scores([2.0])).mean)
    assert profile(scores([2.0]), np.array([1.0]))[1:] == (None, None)


def test_two_calls_give_the_same_numbers() -> None:
    values = np.random.default_rng(3).standard_normal((5, 2, 3))
    assert iqm(values) == iqm(values)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (0, 2, 1)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"\(runs, games, tasks\)"):
        iqm(np.zeros(shape))


def test_sides_of_other_tasks_are_refused() -> None:
    with pytest.raises(UserError, match="same games and tasks"):
        improvement(np.zeros((2, 2, 1)), np.zeros((2, 1, 1)))
