"""Filling the directions a rank-deficient matrix does not have, in one way that depends on nothing but the matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from replastic.linalg.tall import BLOCK_ELEMENTS

RANK_TOLERANCE = 1e-6
"""Singular values below this share of the largest count as zero: what float32 weights, and a float64 Gram matrix, can
tell from rounding."""

_SEED = 20260209


def complete_(factor: Tensor, null: Tensor) -> None:
    """Make a partial isometry orthonormal, in place: Q <- Q + polar(P E N) N^T.

    N is a basis of the null space of Q, P = I - Q Q^T, and E a Gaussian matrix with a fixed seed. Turning the basis
    (N -> N R) turns polar(P E N) along and leaves the sum as it is, so the result does not depend on the signs and
    rotations an eigensolver happens to choose. What is added is orthogonal to the matrix on both sides, so the inner
    product with it, and with it the squared distance to it, stay what they were: still a nearest orthonormal matrix.

    Args:
        factor: (m, n), m >= n, float32 or float64: a partial isometry.
        null: (n, d) float64, orthonormal columns: the directions to fill. d = 0 does nothing.
    """
    if null.shape[1] == 0:
        return
    q = factor.double()
    fill = _gaussian_times(null, factor.shape[0])
    for _ in range(2):  # the second time removes what rounding left of the first
        fill -= q @ (q.mT @ fill)
    u, _, vh = torch.linalg.svd(fill, full_matrices=False)
    factor += ((u @ vh) @ null.mT).to(factor.dtype)


def _gaussian_times(basis: Tensor, m: int) -> Tensor:
    """E @ basis for the fixed Gaussian E (m, n), drawn on the CPU a block of rows at a time."""
    n = basis.shape[0]
    generator = torch.Generator().manual_seed(_SEED)
    step = max(1, BLOCK_ELEMENTS // n)
    blocks = [
        torch.randn(min(step, m - start), n, generator=generator, dtype=torch.float64).to(basis.device) @ basis
        for start in range(0, m, step)
    ]
    return torch.cat(blocks)
