"""Scale rules against hand computation; procrustes against its definition."""

from __future__ import annotations

import math

import pytest
import torch

from replastic.errors import UnknownNameError, UserError
from replastic.linalg import SCALES, polar, scale_factor, sfe


def weights() -> tuple[torch.Tensor, torch.Tensor]:
    w = torch.randn(3, 8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return w, polar(w, "svd").factor


def test_modular_is_the_papers() -> None:
    w, q = weights()
    assert scale_factor("modular", w, q).tolist() == [2.0] * 3
    assert scale_factor("modular", w, q, taps=9).tolist() == pytest.approx([2 / 9] * 3)
    assert scale_factor("modular", w.mT, q.mT).tolist() == [0.5] * 3


def test_modular_norm_gives_any_factor_the_norm_of_an_isometry() -> None:
    w, q = weights()
    torch.testing.assert_close(scale_factor("modular_norm", w, q, taps=9), scale_factor("modular", w, q, taps=9))
    rough = polar(w, "newton_schulz", num_iters=1)
    assert (rough.residual > 0.01).all()
    written = rough.factor * scale_factor("modular_norm", w, rough.factor, taps=9)[:, None, None]
    # sqrt(8/2) / 9 times the norm sqrt(2) of an 8 x 2 isometry
    torch.testing.assert_close(torch.linalg.matrix_norm(written), torch.full((3,), 2 / 9 * math.sqrt(2)).double())


def test_norms() -> None:
    w, q = weights()
    w0 = 5 * w.flip(0)
    norm = torch.linalg.matrix_norm
    torch.testing.assert_close(norm(q * scale_factor("preserve", w, q)[:, None, None]), norm(w))
    torch.testing.assert_close(norm(q * scale_factor("init", w, q, w0=w0)[:, None, None]), norm(w0))
    torch.testing.assert_close(scale_factor("preserve", w, q), norm(w) / math.sqrt(2))
    assert scale_factor("unit", w, q).tolist() == [1.0] * 3


def test_procrustes_is_the_scaled_isometry_nearest_to_the_weight() -> None:
    w, q = weights()
    s = scale_factor("procrustes", w, q)
    torch.testing.assert_close(s, torch.linalg.svdvals(w).mean(-1))  # <W, Q> / r, the mean singular value
    least = sfe(q * s[:, None, None], w)
    for factor in (0.99, 1.01):
        assert (sfe(q * (s * factor)[:, None, None], w) > least).all()
    turned = torch.linalg.qr(q + 0.1 * torch.randn(q.shape, generator=torch.Generator().manual_seed(1))).Q
    best = scale_factor("procrustes", w, turned)
    assert (sfe(turned * best[:, None, None], w) > least).all()


@pytest.mark.parametrize("rule", sorted(SCALES))
def test_shapes_and_a_zero_factor(rule: str) -> None:
    w = torch.randn(2, 3, 5, 4)
    s = scale_factor(rule, w, torch.zeros_like(w), w0=w)
    assert s.shape == (2, 3)
    assert s.dtype == torch.float64
    assert s.isfinite().all()


def test_wrong_use() -> None:
    w, q = weights()
    with pytest.raises(UserError, match="init"):
        scale_factor("init", w, q)
    with pytest.raises(UnknownNameError, match="procrustes"):
        scale_factor("procrustus", w, q)
