"""A flipped direction leaves the residual at zero; alignment must see it."""

from __future__ import annotations

import torch

from replastic.linalg import polar, residual
from replastic.linalg.direction import Leading
from replastic.linalg.tall import Tall
from support.direction import alignment


def flipped(w: torch.Tensor, *directions: int) -> torch.Tensor:
    """The polar factor with some singular directions turned around by hand."""
    u, _, vh = torch.linalg.svd(w, full_matrices=False)
    u[..., :, list(directions)] *= -1
    return u @ vh


def test_both_checks_see_a_flip_that_the_residual_does_not() -> None:
    w = torch.randn(3, 80, 40, generator=torch.Generator().manual_seed(0))
    tall = Tall(w, torch.ones(3, 1, 1), torch.empty_like(w))
    leading = Leading(tall, w.mT @ w)
    right = flipped(w)
    assert float(alignment(right, w).min()) > 1 - 1e-6
    assert float(leading.alignment(right).min()) > 0.99
    for k in (0, 3):
        wrong = flipped(w, k)
        assert float(residual(wrong).max()) < 1e-10
        s = torch.linalg.svdvals(w.double())
        torch.testing.assert_close(alignment(wrong, w), 1 - 2 * s[:, k] / s.sum(-1), atol=1e-5, rtol=0)
        assert float(leading.alignment(wrong).max()) < 0.92


def test_every_solver_reports_alignment_of_a_weight_with_a_large_direction() -> None:
    generator = torch.Generator().manual_seed(1)
    w = torch.randn(60, 30, generator=generator)
    w += 5 * torch.outer(torch.randn(60, generator=generator), torch.randn(30, generator=generator))
    for solver in ("exact", "svd", "iterative", "fast"):
        assert 0.99 < float(polar(w, solver).alignment) < 1.01
