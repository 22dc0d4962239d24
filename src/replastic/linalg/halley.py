"""Dynamically weighted Halley steps: they lift small singular values by up to 34 at once, for an inverse and a product.

X <- X (a I + b A) (I + c A)^-1 with A = X^T X. A matrix of condition 1e3 needs two of them, or seven quintic steps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from replastic.linalg.products import symmetric_product
from replastic.linalg.spd_inverse import spd_inverse_

LEAST = 0.02
"""Least lower end for which weights are chosen. Smaller singular values grow by the same factor, 34, and no more is
safe in float32: I + c A has the condition number 310."""

_SEED = 20260211
_DEGREE = 8
_COLUMNS = 8
_BULK = 0.1
_APPLICATIONS = 2


def weights(low: float) -> tuple[float, float, float]:
    """The (a, b, c) that bring all of [low, 1] as close to 1 as one such step can; 0 < low < 1.

    Reference: Nakatsukasa, Bai and Gygi, Optimizing Halley's iteration for computing the matrix polar decomposition
        (SIAM J. Matrix Anal. Appl. 31, 2010), equation 3.19.
    """
    square = low * low
    d = math.cbrt(4 * (1 - square) / square**2)
    root = math.sqrt(1 + d)
    a = root + math.sqrt(8 - 4 * d + 8 * (2 - square) / (square * root)) / 2
    b = (a - 1) ** 2 / 4
    return a, b, a + b - 1


def lifted(low: float, step: tuple[float, float, float]) -> float:
    """The value of the step at `low`."""
    a, b, c = step
    return low * (a + b * low * low) / (1 + c * low * low)


def halley(x: Tensor, gram: Tensor, step: tuple[float, float, float], *, out: Tensor) -> Tensor:
    """One step on X (b, m, n). The new X goes to `out`; `gram`, X^T X (b, n, n), becomes that of the new one.

    Returns:
        (b,) float64: the least singular value of X before the step, found from above, and closely if it is small.

    Reference: Nakatsukasa, Bai and Gygi (2010). The inverse is formed, since products with it are much faster than
        solving triangular systems; at a condition number of 310 that costs no accuracy.
    """
    a, b, c = step
    gram.mul_(c).diagonal(dim1=-2, dim2=-1).add_(1)
    transform = spd_inverse_(gram)
    basis = _random_columns(gram)
    for _ in range(_APPLICATIONS):
        basis = transform @ basis
    basis = torch.linalg.qr(basis).Q
    largest = torch.linalg.eigvalsh((basis.mT @ (transform @ basis)).double())[:, -1]
    transform.mul_(a - b / c).diagonal(dim1=-2, dim2=-1).add_(b / c)
    torch.bmm(x, transform, out=out)
    symmetric_product(out, out, out=gram)
    return torch.sqrt(((1 / largest - 1) / c).clamp_min(0))


def well_conditioned(gram: Tensor) -> Tensor:
    """An estimate from above, (b,) float64, of the least singular value of X, from X^T X (b, n, n).

    It tells whether a value lies far below 0.3, and little more: a Chebyshev polynomial of degree 8 leaves a hundredth
    of the eigenvectors to eigenvalues from 0.1 on.
    """
    before = _random_columns(gram)
    shift, factor = (1 + _BULK) / (1 - _BULK), -2 / (1 - _BULK)
    now = torch.baddbmm(before, gram, before, beta=shift, alpha=factor)
    for _ in range(_DEGREE - 1):
        now, before = torch.baddbmm(before.neg(), gram, now, alpha=2 * factor).add_(now, alpha=2 * shift), now
    basis = torch.linalg.qr(now).Q
    return torch.sqrt(torch.linalg.eigvalsh((basis.mT @ (gram @ basis)).double())[:, 0].clamp_min(0))


def _random_columns(gram: Tensor) -> Tensor:
    """(b, n, 8), the same for every matrix."""
    n = gram.shape[-1]
    drawn = torch.randn(n, min(_COLUMNS, n), generator=torch.Generator().manual_seed(_SEED), dtype=gram.dtype)
    return drawn.to(gram.device).expand(len(gram), -1, -1)
