"""What a polar-factor solver returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class PolarResult:
    """Nearest orthonormal matrix of every matrix of a batch, and how good it is.

    Shapes: `factor` (*B, m, n) in the working dtype (float32, or float64 for float64 input: the caller casts once, at
    the end); `residual` and `alignment` (*B,) float64.
    """

    factor: Tensor
    residual: Tensor
    """||Q^T Q - I||_F^2 / r on the smaller Gram, r = min(m, n): 0 for an exact factor, 1 for a zero matrix."""
    alignment: Tensor
    """<Q, W> / ||W||_*, 1 for the polar factor; a flipped direction lowers it, which no residual can see.

    `exact` and `svd` know every singular value and use all of them. The polynomial solvers look at the leading
    min(16, r) directions only, where a flip costs most: <QV, WV> / ||WV||_* with V from a few steps of subspace
    iteration. For an exact factor that is at most 1 and, as V is itself approximate, seldom below 0.99. Where Q is
    short of orthonormal, as after few Newton-Schulz steps, it is below 1 by that shortfall. A zero matrix has no
    direction to disagree with: 1 where it was completed, 0 where it was skipped.
    """
    iterations: int
    """Iterations spent; 0 for a direct solver."""
    solver: str
