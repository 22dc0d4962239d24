"""The polar factor by rows against the SVD in float64, however the rows are cut into parts."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from replastic import linalg


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 7), more=st.integers(0, 9), cut=st.integers(0, 16), scale=st.sampled_from((1e-18, 1.0, 3e15)),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_parts_of_rows_make_up_the_factor(n: int, more: int, cut: int, scale: float, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    w = torch.randn(n + more, n, generator=draw) + 2 * torch.eye(n + more, n)
    w = w * scale
    u, s, vt = torch.linalg.svd(w.double(), full_matrices=False)
    if s[-1] < 1e-3 * s[0]:
        return
    parts = w[:cut], w[cut:]
    root = linalg.gram_root(sum((linalg.gram_of(part) for part in parts), torch.zeros(n, n, dtype=torch.float64)))
    assert root is not None
    found = torch.cat([root.times(part) for part in parts])
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), u @ vt, atol=2e-5)
    assert root.residual < 1e-8
    assert root.alignment == pytest.approx(1, abs=1e-6)
    before, after, distance = root.norms(2.0)
    assert before == pytest.approx(float(s.norm()), rel=1e-5)
    assert after == pytest.approx(2 * math.sqrt(n), rel=1e-5)
    assert distance == pytest.approx(float((2 * u @ vt - w.double()).norm()), rel=1e-5)


def test_an_ill_conditioned_matrix_is_multiplied_in_float64() -> None:
    draw = torch.Generator().manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(k, 4, generator=draw, dtype=torch.float64))[0] for k in (9, 4))
    w = (u * torch.tensor([1.0, 0.1, 1e-3, 5e-5], dtype=torch.float64)) @ v.mT
    root = linalg.gram_root(linalg.gram_of(w.float()))
    assert root is not None
    assert root.transform.dtype == torch.float64
    a, _, b = torch.linalg.svd(w.float().double(), full_matrices=False)
    assert torch.allclose(root.times(w.float()).double(), a @ b, atol=1e-6)


@pytest.mark.parametrize("w", [torch.zeros(5, 3), torch.ones(5, 3), torch.full((5, 3), math.nan)])
def test_what_lacks_a_direction_has_no_map(w: torch.Tensor) -> None:
    assert linalg.gram_root(linalg.gram_of(w)) is None


def test_no_rows_add_nothing() -> None:
    assert torch.equal(linalg.gram_of(torch.empty(0, 3)), torch.zeros(3, 3, dtype=torch.float64))
