"""Singular values clamped to a band, against the decomposition in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from replastic.linalg import clamp_singular_values, polar

shapes = st.tuples(st.integers(1, 4), st.integers(1, 8), st.integers(1, 8))


def ends(w: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    low_end, high_end = (torch.full(w.shape[:-2], end, dtype=torch.float64) for end in (low, high))
    return low_end, high_end


@settings(deadline=None, max_examples=30)
@given(shape=shapes, seed=st.integers(0, 10**6), low=st.floats(0, 2), width=st.floats(0, 3))
def test_values_are_clamped_and_vectors_stay(shape: tuple[int, int, int], seed: int, low: float, width: float) -> None:
    w = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = clamp_singular_values(w, *ends(w, low, low + width))
    u, s, vh = torch.linalg.svd(w, full_matrices=False)
    assert torch.allclose(found.weight, u @ torch.diag_embed(s.clamp(low, low + width)) @ vh, atol=1e-10)
    assert torch.equal(found.raised, (s < low).sum(-1))
    assert torch.equal(found.lowered, (s > low + width).sum(-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_matrix_in_its_band_stays_to_the_bit(dtype: torch.dtype) -> None:
    w = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    s = torch.linalg.svdvals(w.double())
    found = clamp_singular_values(w, s[:, -1] * 0.99, s[:, 0] * 1.01)
    assert torch.equal(found.weight, w)
    assert not found.raised.any()
    assert not found.lowered.any()


def test_each_matrix_has_a_band_of_its_own() -> None:
    w = torch.diag_embed(torch.tensor([[3.0, 1.0], [3.0, 1.0]], dtype=torch.float64))
    found = clamp_singular_values(w, torch.tensor([2.0, 0.0]), torch.tensor([5.0, 0.5]))
    assert torch.allclose(found.weight, torch.diag_embed(torch.tensor([[3.0, 2.0], [0.5, 0.5]], dtype=torch.float64)))
    assert found.raised.tolist() == [1, 0]
    assert found.lowered.tolist() == [0, 2]


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
def test_missing_directions_are_those_of_the_completed_polar_factor(shape: tuple[int, int]) -> None:
    """With the band [1, 1] the result is the polar factor itself, completed in the same way."""
    g = torch.Generator().manual_seed(0)
    w = (
        torch.randn(2, shape[0], 2, generator=g, dtype=torch.float64)
        @ torch.randn(2, 2, shape[1], generator=g).double()
    )
    found = clamp_singular_values(w, *ends(w, 1.0, 1.0))
    assert torch.allclose(found.weight, polar(w, "svd").factor, atol=1e-9)
    raised = clamp_singular_values(w, *ends(w, 0.25, 4.0)).weight
    s = torch.linalg.svdvals(w)
    wanted = torch.where(s > 1e-9, s.clamp(0.25, 4.0), 0.25)
    assert torch.allclose(torch.linalg.svdvals(raised), wanted.sort(-1, descending=True).values, atol=1e-9)


def test_a_band_that_begins_at_zero_leaves_a_zero_matrix() -> None:
    w = torch.zeros(1, 3, 4)
    assert torch.equal(clamp_singular_values(w, *ends(w, 0.0, 2.0)).weight, w)
