"""Every solver against the float64 singular value decomposition, on spectra from harmless to nearly singular."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from replastic.linalg import SOLVERS, polar, residual
from replastic.linalg.iterative import by_float64_gram
from replastic.linalg.tall import Tall
from support.direction import alignment

SHAPES = [(1, 1), (1, 9), (9, 1), (7, 5), (5, 7), (48, 48), (96, 32), (3, 20, 20), (2, 3, 40, 12)]


def matrix(shape: tuple[int, ...], condition: float, seed: int = 0) -> Tensor:
    """Random singular vectors, singular values evenly spread in the logarithm from 1 down to 1 / condition."""
    generator = torch.Generator().manual_seed(seed)
    u, _, vh = torch.linalg.svd(torch.randn(shape, generator=generator, dtype=torch.float64), full_matrices=False)
    s = torch.logspace(0, -torch.log10(torch.tensor(condition)).item(), u.shape[-1], dtype=torch.float64)
    return ((u * s) @ vh).float()


def polar_factor(w: Tensor) -> Tensor:
    u, _, vh = torch.linalg.svd(w.double(), full_matrices=False)
    return u @ vh


def distance(q: Tensor, truth: Tensor) -> float:
    error = torch.linalg.matrix_norm(q.double() - truth) / torch.linalg.matrix_norm(truth)
    return float(error.max())


def formula(w: Tensor, num_iters: int, coefficients: str) -> Tensor:
    """The paper's iteration transcribed, in float64."""
    x = w.double()
    x = x.mT if w.shape[-2] < w.shape[-1] else x
    x = x / torch.linalg.matrix_norm(x)[..., None, None]
    for _ in range(num_iters):
        if coefficients == "cubic":
            x = 1.5 * x - 0.5 * x @ (x.mT @ x)
        else:
            x = 2 * x - 1.5 * x @ (x.mT @ x) + 0.5 * x @ (x.mT @ x) @ (x.mT @ x)
    return x.mT if w.shape[-2] < w.shape[-1] else x


@pytest.mark.parametrize("shape", [*SHAPES, (128, 20), (20, 200)])
@pytest.mark.parametrize("coefficients", ["cubic", "quintic"])
@pytest.mark.parametrize("num_iters", [1, 5, 10, 25])
def test_newton_schulz_equals_the_formula(shape: tuple[int, ...], coefficients: str, num_iters: int) -> None:
    gaussian = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    for w in (gaussian, gaussian + 20 * matrix(shape, 1e9), matrix(shape, 1e3), matrix(shape, 1e6)):
        q = polar(w, "newton_schulz", num_iters=num_iters, coefficients=coefficients).factor
        assert distance(q, formula(w, num_iters, coefficients)) <= 5e-6


@settings(deadline=None, max_examples=25)
@given(
    m=st.integers(1, 40),
    n=st.integers(1, 40),
    batch=st.lists(st.integers(1, 3), max_size=2),
    condition=st.floats(1.0, 1e4),
    seed=st.integers(0, 1000),
)
@example(m=2, n=3, batch=[3], condition=971.0, seed=0)
def test_exact_is_the_polar_factor(m: int, n: int, batch: list[int], condition: float, seed: int) -> None:
    w = matrix((*batch, m, n), condition, seed)
    result = polar(w)
    assert result.factor.shape == w.shape
    assert result.residual.shape == result.alignment.shape == tuple(batch)
    assert distance(result.factor, polar_factor(w)) <= 3e-4
    assert float(result.residual.max()) <= 1e-8
    assert float(residual(result.factor).max()) <= 1e-8
    # Q = U diag(s) V^T with sum (s_i^2 - 1)^2 = k * residual: <Q, W> / ||W||_* is a mean of the s_i
    allowed = torch.sqrt(min(m, n) * result.residual) / 2 + 1e-6
    assert bool(((result.alignment - 1).abs() <= allowed).all())


@pytest.mark.parametrize("condition", [1.0, 30.0, 1e3, 1e4])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("solver", "options"), [("iterative", {}), ("svd", {}), ("exact", {})])
def test_converging_solvers(solver: str, options: dict[str, float], shape: tuple[int, ...], condition: float) -> None:
    w = matrix(shape, condition)
    result = polar(w, solver, **options)
    assert distance(result.factor, polar_factor(w)) <= 1e-3
    assert float(residual(result.factor).max()) <= 1.1e-8
    assert float(alignment(result.factor, w).min()) >= 1 - 1e-5
    assert 0.99 <= float(result.alignment.min()) <= float(result.alignment.max()) <= 1 + 1e-5


@pytest.mark.parametrize("solver", sorted(SOLVERS))
@pytest.mark.parametrize("shape", SHAPES)
def test_reported_residual_is_that_of_the_factor(solver: str, shape: tuple[int, ...]) -> None:
    result = polar(matrix(shape, 100.0), solver)
    rounding = 1e-4 if solver == "fast" else 1e-9
    torch.testing.assert_close(result.residual, residual(result.factor), rtol=1e-2, atol=rounding)


@pytest.mark.parametrize("shape", [(64, 64), (192, 192), (128, 64), (256, 64), (64, 256), (3, 96, 96)])
def test_fast_is_closer_than_ten_cubic_steps_on_trained_like_spectra(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(3)
    w = torch.randn(shape, generator=generator) / shape[-1] ** 0.5
    for _ in range(4):
        left = torch.randn(*shape[:-1], 1, generator=generator)
        right = torch.randn(*shape[:-2], 1, shape[-1], generator=generator)
        w = w + 3 * left @ right / (shape[-1] * shape[-2]) ** 0.5
    truth = polar_factor(w)
    rough = distance(polar(w, "newton_schulz").factor, truth)
    floor = 1e-2  # what bfloat16 can tell apart
    assert distance(polar(w, "fast").factor, truth) <= max(rough, floor)


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e6, 1e12])
@pytest.mark.parametrize("shape", [(64, 64), (256, 32), (3, 5)])
def test_fast_stays_finite_and_bounded_and_polish_helps(shape: tuple[int, int], condition: float) -> None:
    w = matrix(shape, condition)
    rough, polished = polar(w, "fast"), polar(w, "fast", polish=2)
    assert torch.linalg.svdvals(rough.factor).max() < 1.1
    assert torch.linalg.svdvals(polished.factor).max() < 1.001
    assert float(polished.residual) <= float(rough.residual)


@pytest.mark.parametrize("solver", ["exact", "iterative", "svd"])
def test_float64_weights_are_solved_in_float64(solver: str) -> None:
    w = torch.randn(5, 60, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert distance(polar(w, solver).factor, polar_factor(w)) <= 1e-7
    assert polar(w, solver).factor.dtype == torch.float64


@pytest.mark.parametrize("solver", ["exact", "iterative", "svd"])
@pytest.mark.parametrize("shape", [(12, 12), (30, 12), (12, 30)])
def test_rank_deficient_matrices_are_completed(solver: str, shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(5)
    w = torch.randn(shape[0], 7, generator=generator) @ torch.randn(7, shape[1], generator=generator)
    w[1], w[2] = w[0], 0.0  # a repeated and a dead unit
    full, partial = polar(w, solver), polar(w, solver, complete=False)
    rank = int(torch.linalg.matrix_rank(w.double(), rtol=1e-6))
    r = min(shape)
    assert float(full.residual) <= 1e-8
    assert float(partial.residual) == pytest.approx(1 - rank / r, abs=1e-6)
    for result in (full, partial):  # both nearest: <Q, W> is the nuclear norm
        assert float(alignment(result.factor, w)) == pytest.approx(1.0, abs=1e-6)
    u, s, vh = torch.linalg.svd(w.double(), full_matrices=False)
    assert distance(partial.factor, (u * (s > 1e-6 * s[0])) @ vh) <= 1e-5
    assert distance(full.factor, polar(w, "svd").factor.double()) <= 1e-5


@pytest.mark.parametrize("shape", [(1, 5), (24, 24), (40, 12), (3, 30, 9)])
@pytest.mark.parametrize("condition", [1.0, 1e4, 1e9])
def test_the_solver_for_gpus_agrees_with_eigenvectors(shape: tuple[int, ...], condition: float) -> None:
    """It is written for CUDA devices but runs anywhere; 1e9 leaves directions only eigenvectors can complete."""
    w = matrix(shape, condition).reshape(-1, *shape[-2:])
    w = w if shape[-2] >= shape[-1] else w.mT
    tall = Tall(w, torch.ones(len(w), 1, 1), torch.empty_like(w))
    solved = by_float64_gram(tall)
    assert distance(tall.out, polar(w).factor.double()) <= 3e-4
    assert float(solved.residual.max()) <= 1e-8
    assert float(solved.alignment.min()) >= 0.99
