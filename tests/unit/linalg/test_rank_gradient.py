"""The effective rank's gradient against finite differences of its definition by numpy's SVD, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from replastic import linalg
from replastic.linalg.rank_gradient import effective_rank_gradient


def rank(w: np.ndarray) -> float:
    s = np.linalg.svd(w, compute_uv=False)
    p = s / s.sum()
    return float(np.exp(-(p * np.log(p + 1e-8)).sum()))


def slope(w: Tensor, step: float = 1e-5) -> Tensor:
    """Central differences, entry by entry."""
    found = torch.zeros_like(w)
    for index in np.ndindex(*w.shape):
        up, down = w.numpy().copy(), w.numpy().copy()
        up[index] += step
        down[index] -= step
        found[index] = (rank(up) - rank(down)) / (2 * step)
    return found


@settings(max_examples=30, deadline=None)
@given(shape=st.tuples(st.integers(1, 7), st.integers(1, 7)), seed=st.integers(0, 1000))
def test_it_is_the_slope_of_the_definition(shape: tuple[int, int], seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    w = torch.randn(shape, generator=draw, dtype=torch.float64)
    # Singular values that are far from zero, so that differences of 1e-5 stay on the smooth part.
    u, s, v = torch.linalg.svd(w, full_matrices=False)
    w = u * (s + 0.2) @ v
    value, gradient = effective_rank_gradient(w)
    assert float(value) == pytest.approx(rank(w.numpy()), rel=1e-9)
    torch.testing.assert_close(gradient, slope(w), rtol=1e-5, atol=1e-6)


def test_the_value_is_the_effective_rank() -> None:
    w = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    value, gradient = effective_rank_gradient(w)
    torch.testing.assert_close(value, linalg.effective_rank(w), rtol=1e-6, atol=0)
    assert gradient.dtype == w.dtype
    assert gradient.shape == w.shape


@pytest.mark.parametrize("transposed", [False, True])
def test_directions_without_features_are_left_alone(transposed: bool) -> None:
    """Two silent units: the gradient is that of the others, and zero on theirs."""
    w = torch.randn(8, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    w[:, [1, 3]] = 0
    _, gradient = effective_rank_gradient(w.T if transposed else w)
    gradient = gradient.T if transposed else gradient
    assert gradient[:, [1, 3]].abs().max() < 1e-14
    torch.testing.assert_close(gradient[:, [0, 2, 4]], slope(w[:, [0, 2, 4]]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 4), (1, 1), (4, 2)])
def test_nothing_but_zeros_has_no_slope(shape: tuple[int, int]) -> None:
    value, gradient = effective_rank_gradient(torch.zeros(shape))
    assert float(value) == 1.0
    assert not gradient.any()
