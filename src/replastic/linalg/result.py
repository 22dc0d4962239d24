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
    """<Q, W> / ||W||_*, 1 for the polar factor; a flipped direction lowers it, which no residual can see."""
    iterations: int
    """Iterations spent; 0 for a direct solver."""
    solver: str
