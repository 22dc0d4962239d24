"""The minimax schedules: optimal by the equioscillation theorem, as good as derived independently, safe in rounding."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from replastic.linalg.schedule import CUBIC, POLISH, QUINTIC, Step, minimax_quintic, p, schedule


def composed(steps: tuple[Step, ...], x: np.ndarray) -> np.ndarray:
    for a, b, c in steps:
        x = x * (a + b * x**2 + c * x**4)
    return x


@pytest.mark.parametrize(("low", "high"), [(0.03, 1.0), (1e-4, 1.0), (0.4, 1.6), (0.95, 1.05)])
def test_minimax_error_alternates_four_times_and_is_nowhere_larger(low: float, high: float) -> None:
    step = minimax_quintic(low, high)
    x = np.linspace(low, high, 200_001)
    error = 1 - composed((step,), x)
    peak = np.abs(error).max()
    signs = [np.sign(e) for e in error if abs(e) > peak * (1 - 1e-6)]
    alternations = [signs[0]] + [b for a, b in itertools.pairwise(signs) if a != b]
    assert alternations == [1, -1, 1, -1]


def test_limit_of_a_vanishing_interval() -> None:
    assert minimax_quintic(1.0, 1.0) == POLISH
    np.testing.assert_allclose(minimax_quintic(1 - 1e-4, 1 + 1e-4), POLISH, rtol=1e-3)


def test_published_coefficients() -> None:
    """Values derived independently: the plain optimum for 0.03, and with cushion 0.1 for 1e-4."""
    first, *_, last = schedule(0.03, 4, cushion=0.0)
    np.testing.assert_allclose(first, (7.362527758027792, -20.74339564617215, 15.16055175868457), rtol=1e-7)
    np.testing.assert_allclose(last, (1.876379718686942, -1.251532167728303, 0.3751532497931662), rtol=1e-7)
    steps = schedule(1e-4, 9)
    np.testing.assert_allclose(steps[8], (1.87500026177, -1.25000029097, 0.375000029196), rtol=1e-6)
    gains = (7.70809090828, 3.85129291385, 3.8392588912, 3.79380338445, 3.63171261671)
    gains += (3.16411416195, 2.21693957017, 1.88411153967, 1.87500026177)
    assert np.prod([a for a, _, _ in steps]) == pytest.approx(np.prod(gains), rel=1e-6)  # each up to a common rescaling


@pytest.mark.parametrize(
    ("lower", "num_steps", "cushion", "error"), [(0.03, 4, 0.0, 3.5e-5), (1e-3, 7, 0.1, 7e-8), (1e-4, 9, 0.1, 1e-10)]
)
def test_error_of_the_whole_schedule(lower: float, num_steps: int, cushion: float, error: float) -> None:
    x = np.geomspace(lower, 1, 100_000)
    assert np.abs(composed(schedule(lower, num_steps, cushion=cushion), x) - 1).max() <= error


@pytest.mark.parametrize("safety", [1.01, 1.02])
def test_safety_keeps_values_inside_under_rounding(safety: float) -> None:
    generator = np.random.default_rng(0)
    x = np.concatenate([np.zeros(1), np.geomspace(1e-9, 1, 50_000)])
    for step in schedule(1e-4, 9, safety=safety):
        x = composed((step,), x) * (1 + (safety - 1) * generator.uniform(-1, 1, x.shape))
        assert x.min() >= 0  # no direction is flipped
    assert x.max() < 1.03


def test_the_papers_polynomials_fix_one() -> None:
    for step in (CUBIC, QUINTIC, POLISH):
        assert p(1.0, step) == 1.0
        assert p(0.0, step) == 0.0
