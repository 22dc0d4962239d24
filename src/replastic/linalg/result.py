"""The result of a polar-factor solver."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class PolarResult:
    """Nearest orthonormal matrix of every matrix of a batch, with its accuracy.

    Shapes: `factor` (*B, m, n) in the working dtype: float64 for float64 input, float32 for any other. The caller casts
    it once, at the end. `residual` and `alignment` (*B,) float64.
    """

    factor: Tensor
    residual: Tensor
    """||Q^T Q - I||_F^2 / r on the smaller Gram, r = min(m, n): 0 for an exact factor, 1 for a zero matrix."""
    alignment: Tensor
    """<Q, W> / ||W||_*: 1 for the polar factor. A flipped direction lowers it; the residual cannot see a flip.

    `svd`, and `exact` where it takes eigenvectors, know every singular value and use all of them. All others use the
    leading min(16, r) directions only, where a flip costs most: <QV, WV> / ||WV||_* with V from a few steps of subspace
    iteration. For an exact factor this is at most 1. Since V is approximate, it can be a little less, but seldom below
    0.99. If Q is not orthonormal, as after few Newton-Schulz steps, it is lower still. A zero matrix has no direction:
    its value is 1 if it was completed, and 0 if it was skipped.
    """
    iterations: int
    """Number of iterations; 0 for a direct solver."""
    solver: str
    products: str = ""
    """``oneDNN`` if a probe found that faster on this machine; empty for torch's usual products."""
