"""Stochastic Lanczos quadrature against dense spectra, and the epsilon-rank by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from replastic.errors import UserError
from replastic.linalg import SpectralDensity, dense_density, num_products, quadrature, spectral_density


def symmetric(dim: int, seed: int = 0) -> torch.Tensor:
    a = torch.randn(dim, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (a + a.mT) / math.sqrt(8 * dim)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(deadline=None, max_examples=20)
@given(dim=st.integers(2, 12), steps=st.integers(1, 6), seed=st.integers(0, 10**6))
def test_moments_up_to_twice_the_steps_are_exact_with_all_probes(dim: int, steps: int, seed: int) -> None:
    a = symmetric(dim, seed)
    found = quadrature(lambda v: a @ v, dim, num_probes=dim, num_steps=steps, generator=generator(seed))
    for power in range(2 * steps):
        trace = float(torch.linalg.matrix_power(a, power).trace())
        assert found.moment(power) == pytest.approx(trace / dim, rel=1e-9, abs=1e-10), power
    assert torch.allclose(found.weights.sum(-1), torch.ones(dim, dtype=torch.float64))


def test_one_step_is_not_exact_beyond_its_order() -> None:
    a = symmetric(8)
    found = quadrature(lambda v: a @ v, 8, num_probes=8, num_steps=1, generator=generator())
    assert abs(found.moment(2) - float((a @ a).trace()) / 8) > 1e-3


@settings(deadline=None, max_examples=20)
@given(dim=st.integers(1, 30), seed=st.integers(0, 10**6), epsilon=st.floats(0.001, 0.9), zeros=st.integers(0, 30))
def test_rank_of_a_dense_spectrum_is_counted(dim: int, seed: int, epsilon: float, zeros: int) -> None:
    values = torch.randn(dim, generator=generator(seed), dtype=torch.float64) * 3
    values[: min(zeros, dim)] = 0
    q = torch.linalg.qr(symmetric(dim, seed + 1)).Q
    found = dense_density(lambda v: q @ (values * (q.mT @ v)), dim)
    top = float(values.abs().max())
    for relative, threshold in ((True, epsilon * top), (False, epsilon)):
        rank = found.rank(epsilon, relative=relative)
        expected = int((values.abs() > threshold).sum()) if top else 0
        assert rank.value == rank.low == rank.high == rank.at_least == expected
        assert (rank.exact, rank.standard_error) == (True, 0.0)


@settings(deadline=None, max_examples=25)
@given(dim=st.integers(4, 40), steps=st.integers(1, 12), probes=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_bounds_hold_for_the_probes_own_measures(dim: int, steps: int, probes: int, seed: int) -> None:
    values = torch.linspace(-1, 1, dim, dtype=torch.float64) ** 3
    found = quadrature(lambda v: values * v, dim, num_probes=probes, num_steps=steps, generator=generator(seed))
    # The probes again: the eigenvectors are the axes, so a probe's measure of the axes is its squared entries.
    draws = torch.randn(dim, min(probes, dim), generator=generator(seed), dtype=torch.float64)
    shares = torch.linalg.qr(draws).Q.square()
    for epsilon in (0.01, 0.2, 0.6):
        rank = found.rank(epsilon, relative=False)
        truth = float(shares[values.abs() > epsilon].sum(0).mean()) * dim
        assert rank.low - 1e-9 <= truth <= rank.high + 1e-9
        assert rank.at_least <= int((values.abs() > epsilon).sum())
        assert rank.low - 1e-9 <= rank.value <= rank.high + 1e-9


def test_the_estimate_is_near_the_count_and_says_how_near() -> None:
    values = torch.zeros(400, dtype=torch.float64)
    values[:40] = torch.linspace(1, 2, 40, dtype=torch.float64)
    values[40:60] = -1.5
    found = quadrature(lambda v: values * v, 400, num_probes=30, num_steps=25, generator=generator())
    rank = found.rank()
    assert rank.value == pytest.approx(60, abs=4)
    assert rank.standard_error == pytest.approx(math.sqrt(2 * 60) / math.sqrt(30), rel=0.5)
    assert not rank.exact
    assert (
        quadrature(lambda v: values * v, 400, num_probes=1, num_steps=5, generator=generator()).rank().standard_error
        is None
    )


def test_the_cheaper_way_is_taken() -> None:
    a = symmetric(12)
    calls = []

    def matvec(v: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return a @ v

    assert spectral_density(matvec, 12, num_probes=3, num_steps=4, generator=generator()).exact
    assert len(calls) == num_products(12, 3, 4) == 12
    found = spectral_density(matvec, 12, num_probes=2, num_steps=4, generator=generator())
    assert (found.exact, found.nodes.shape, len(calls)) == (False, (2, 4), 12 + num_products(12, 2, 4))


def test_density_on_a_grid() -> None:
    found = SpectralDensity(torch.tensor([[0.0, 2.0]]).double(), torch.tensor([[0.25, 0.75]]).double(), 4)
    points = torch.linspace(-3, 5, 4001, dtype=torch.float64)
    grid = found.on_grid(points, 0.1)
    assert float(torch.trapezoid(grid, points)) == pytest.approx(1, abs=1e-9)
    assert float(grid[1500]) == pytest.approx(0.25 / (0.1 * math.sqrt(2 * math.pi)))
    assert float(torch.trapezoid(grid * points, points)) == pytest.approx(found.moment(1)) == pytest.approx(1.5)


def test_wrong_input() -> None:
    found = SpectralDensity(torch.ones(1, 1).double(), torch.ones(1, 1).double(), 1)
    for epsilon, relative in ((0.0, True), (1.0, True), (-1.0, False), (math.inf, False), (math.nan, True)):
        with pytest.raises(UserError, match="epsilon must lie"):
            found.rank(epsilon, relative=relative)
    with pytest.raises(UserError, match="width must be above 0"):
        found.on_grid(torch.zeros(1), 0.0)
    for probes, steps, dim in ((0, 1, 1), (1, 0, 9), (1, 1, 0)):
        with pytest.raises(UserError, match="at least 1"):
            quadrature(lambda v: v, dim, num_probes=probes, num_steps=steps, generator=generator())
    with pytest.raises(UserError, match="at least 1"):
        dense_density(lambda v: v, 0)
    for density in (dense_density, lambda f, n: quadrature(f, n, num_probes=1, num_steps=2, generator=generator())):
        with pytest.raises(UserError, match="NaN or infinite"):
            density(lambda v: v / 0, 3)
