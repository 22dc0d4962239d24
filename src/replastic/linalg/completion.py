"""Fills the missing directions of a rank-deficient matrix. The result depends on the matrix alone."""

from __future__ import annotations

import torch
from torch import Tensor

from replastic.linalg.tall import BLOCK_ELEMENTS

RANK_TOLERANCE = 1e-6
"""Singular values below this share of the largest count as zero. Smaller ones cannot be told from rounding, in float32
weights or in a float64 Gram matrix."""

_SEED = 20260209


def complete_(factor: Tensor, null: Tensor) -> None:
    """Make a partial isometry orthonormal, in place: Q <- Q + polar(P E N) N^T.

    N is a basis of the null space of Q, P = I - Q Q^T, and E a Gaussian matrix with a fixed seed. A rotation of the
    basis (N -> N R) rotates polar(P E N) in the same way, and the sum does not change. So the result does not depend on
    the signs and rotations that an eigensolver happens to choose. The added term is orthogonal to the weight W on both
    sides. So <Q, W> and ||Q - W||_F stay the same, and Q is still a nearest orthonormal matrix.

    Args:
        factor: Q (m, n), m >= n, float32 or float64: a partial isometry.
        null: N (n, d) float64, orthonormal columns: the directions to fill. d = 0 does nothing.
    """
    if null.shape[1] == 0:
        return
    q = factor.double()
    fill = _gaussian_times(null, factor.shape[0])
    for _ in range(2):  # the second pass removes the rounding error of the first
        fill -= q @ (q.mT @ fill)
    u, _, vh = torch.linalg.svd(fill, full_matrices=False)
    factor += ((u @ vh) @ null.mT).to(factor.dtype)


def _gaussian_times(basis: Tensor, m: int) -> Tensor:
    """E @ basis for the fixed Gaussian E (m, n), drawn on the CPU in blocks of rows."""
    n = basis.shape[0]
    generator = torch.Generator().manual_seed(_SEED)
    step = max(1, BLOCK_ELEMENTS // n)
    blocks = [
        torch.randn(min(step, m - start), n, generator=generator, dtype=torch.float64).to(basis.device) @ basis
        for start in range(0, m, step)
    ]
    return torch.cat(blocks)
