"""Measures of isometry against hand computation and against the paper's formula on the big Gram matrix."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from replastic.linalg import dfi, dfi_scaled, normalised_sfe, polar, residual, sfe


@settings(deadline=None, max_examples=30)
@given(d_out=st.integers(1, 12), d_in=st.integers(1, 12), batch=st.integers(1, 3), seed=st.integers(0, 99))
def test_dfi_is_the_papers_formula(d_out: int, d_in: int, batch: int, seed: int) -> None:
    w = torch.randn(batch, d_out, d_in, generator=torch.Generator().manual_seed(seed))
    big = w.double() @ w.double().mT - torch.eye(d_out)
    torch.testing.assert_close(dfi(w), big.square().sum((-2, -1)))
    small = w.double() @ w.double().mT if d_out <= d_in else w.double().mT @ w.double()
    r = min(d_out, d_in)
    torch.testing.assert_close(residual(w), (small - torch.eye(r)).square().sum((-2, -1)) / r)


def test_by_hand() -> None:
    w = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]])  # expanding: 2 inputs, 3 outputs
    assert float(dfi(w)) == 9 + 1  # (4 - 1)^2 and the third unit's (0 - 1)^2
    assert float(residual(w)) == 9 / 2
    assert float(dfi_scaled(2 * w, 2.0)) == 10
    assert float(residual(2 * w, 2.0)) == 9 / 2
    assert float(sfe(torch.zeros_like(w), w)) == 5
    assert float(normalised_sfe(w / 2, w)) == 0.25
    assert float(residual(torch.zeros(3, 2))) == 1


def test_an_expanding_layer_cannot_get_below_its_excess() -> None:
    w = torch.randn(9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert float(dfi(polar(w, "svd").factor)) == pytest.approx(9 - 4)


def test_one_scale_per_matrix() -> None:
    w = torch.linalg.qr(torch.randn(2, 5, 5, dtype=torch.float64)).Q
    scale = torch.tensor([3.0, 0.5])
    torch.testing.assert_close(dfi_scaled(w * scale[:, None, None], scale), torch.zeros(2, dtype=torch.float64))
    assert dfi(w * scale[:, None, None])[0] == pytest.approx(5 * (9 - 1) ** 2)


def test_zero_old_weight_has_no_normalised_sfe() -> None:
    assert math.isinf(float(normalised_sfe(torch.eye(2), torch.zeros(2, 2))))
    assert math.isnan(float(normalised_sfe(torch.zeros(2, 2), torch.zeros(2, 2))))
