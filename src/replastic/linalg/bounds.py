"""What the FIRE paper's theorems promise of a network whose weights deviate little from isometries.

All of them speak of the raw weight and of the d_out x d_out Gram matrix (`dfi`); with the smaller Gram matrix they are
false. Theorems 3 and 4 need e = sqrt(DfI) < 1, which no expanding layer can meet and few trained ones do: then they
promise nothing, and these functions say so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from replastic.errors import UserError
from replastic.linalg.measures import dfi
from replastic.linalg.polar import polar

_POSITIVE = 1e-10
"""Share of the largest eigenvalue below which one counts as zero."""


def srank_bound(w: Tensor, inputs: Tensor | None = None, *, delta: float = 0.01) -> int:
    """Theorem 3: a number that srank_delta of the features Z W^T cannot fall below.

    Args:
        w: One weight (d_out, d_in).
        inputs: Z (samples, d_in); None for whitened inputs, Z^T Z / samples = I.
        delta: As in `srank`.

    Raises:
        UserError: The assumption sqrt(DfI) < 1 cannot hold; `delta` out of range; `w` is no single matrix.
    """
    if not 0 < delta < 1:
        raise UserError(f"delta must lie strictly between 0 and 1, got {delta}")
    if w.ndim != 2:
        raise UserError(f"srank_bound takes one weight (d_out, d_in), got shape {tuple(w.shape)}")
    e = _deviation(w)
    directions, spread = w.shape[0], 1.0
    if inputs is not None:
        q = polar(w.double(), "svd").factor
        z = inputs.double()
        eta = torch.linalg.eigvalsh(q @ (z.mT @ z / len(z)) @ q.mT)
        eta = eta[eta > _POSITIVE * eta[-1]]
        directions, spread = len(eta), math.sqrt(float(eta[-1] / eta[0]))
    stretch = math.sqrt((1 + e) / (1 - e)) * spread
    return math.ceil((1 - delta) * directions / (delta * stretch + 1 - delta) - 1e-12)


def dormancy_interval(w: Tensor) -> tuple[float, float]:
    """Theorem 4: the dormancy score of every unit lies between these, for Gaussian inputs and, say, ReLU.

    The score is a unit's mean absolute activation over that of all units of the layer (Sokar et al.).

    Args:
        w: One weight (d_out, d_in).

    Raises:
        UserError: The assumption sqrt(DfI) < 1 cannot hold.
    """
    e = _deviation(w)
    return math.sqrt((1 - e) / (1 + e)), math.sqrt((1 + e) / (1 - e))


def dfi_for_no_dormant(tau: float) -> float:
    """Corollary 2: with a DfI of at most this no unit is tau-dormant; 0.9975 for tau = 0.025.

    Raises:
        UserError: `tau` is not in (0, 1).
    """
    if not 0 < tau < 1:
        raise UserError(f"tau must lie strictly between 0 and 1, got {tau}")
    return ((1 - tau**2) / (1 + tau**2)) ** 2


def hessian_bound(weights: Sequence[Tensor], *, beta: float, gamma: float) -> float:
    """Theorem 2: a bound on the spectral norm of the Hessian of the mean loss in all weights.

    beta sum_k prod_{j != k} nu_j + 2 gamma sum_{k < l} prod_{j not in {k, l}} nu_j with nu_k = 1 + sqrt(DfI(W_k)). It
    holds for a bias-free chain of linear layers and ReLUs whose gates stay as they are, and inputs with
    lambda_max(Z^T Z / samples) <= 1.

    Args:
        weights: W_1 .. W_L, each (d_out, d_in).
        beta: Bound on the norm of the Hessian of a sample's loss in the outputs; 1 for half the squared error.
        gamma: Bound on the norm of the gradient of a sample's loss in the outputs; 0 gives corollary 1.
    """
    nu = [1 + math.sqrt(float(dfi(w))) for w in weights]
    layers = range(len(nu))

    def product_without(*left_out: int) -> float:
        return math.prod(nu[j] for j in layers if j not in left_out)

    single = sum(product_without(k) for k in layers)
    pairs = sum(product_without(k, j) for k in layers for j in layers if k < j)
    return beta * single + 2 * gamma * pairs


def _deviation(w: Tensor) -> float:
    """The e of theorems 3 and 4: sqrt(DfI) of one weight, below 1."""
    e = math.sqrt(float(dfi(w)))
    if e >= 1:
        d_out, d_in = w.shape
        why = f"an expanding layer ({d_in} to {d_out}) never meets it" if d_out > d_in else "scale or spectrum is off"
        raise UserError(f"assumption cannot hold: sqrt(DfI) must be below 1 and is {e:.3g}; {why}")
    return e
