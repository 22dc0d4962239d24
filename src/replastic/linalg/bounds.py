"""The FIRE paper's theorems: bounds that hold for a network whose weights deviate little from isometries.

All of them speak of the raw weight and of the d_out x d_out Gram matrix (`dfi`); with the smaller Gram matrix they are
false. Theorems 3 and 4 need e = sqrt(DfI) < 1, which no expanding layer can meet and few trained ones do: then they
promise nothing, and these functions say so. Theorem 2 is corrected, see `hessian_bound`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from replastic.errors import UserError
from replastic.linalg.measures import dfi
from replastic.linalg.polar import polar

_POSITIVE = 1e-10
"""Share of the largest eigenvalue below which one counts as zero."""


def covariance_gap(new: Tensor, old: Tensor) -> float:
    """||C - C~||_F of the normalised feature covariances C = H H^T / ||H||_F^2 of two networks, from 0 to sqrt(2).

    Shapes: the features H and H~ of the same samples, (samples, units) each; the numbers of units may differ.

    Raises:
        UserError: All features of one network are 0.
    """
    one, other = (h.double() / torch.linalg.matrix_norm(h.double()) for h in (new, old))
    if not bool(one.isfinite().all() and other.isfinite().all()):
        raise UserError("the features of one of the networks are all 0, so that they have no normalised covariance")
    # ||A A^T - B B^T|| is that of the small matrix R J R^T, where [A B] = Q R and J = diag(1, -1).
    r = torch.linalg.qr(torch.cat([one, other], dim=1), mode="r").R
    signs = torch.cat([torch.ones(one.shape[1]), -torch.ones(other.shape[1])]).to(r)
    return float(torch.linalg.matrix_norm((r * signs) @ r.mT))


def covariance_gap_bound(
    norms: Sequence[tuple[float, float]], steepness: Sequence[float], *, sfe: float, inputs: float, least: float
) -> tuple[float, float]:
    """Theorem 1: bounds on `covariance_gap` of the features of layer l, from the change of the weights.

    4 ||Z||_F / m_l prod_k L_k B_Pi sqrt(sum_j 1 / B_j^2) sqrt(SFE), with B_k the larger spectral norm of the two
    weights of layer k, and B_Pi their product over layers 1 to l. The paper prints the square of it.

    The paper asks the activation functions to have Lipschitz constants L_k. Its equation 11 also needs them to map 0
    to 0, as ReLU and tanh do. A sigmoid does not, and there the bound fails: 0.5 in every unit of a hidden layer is
    no small feature, however small the inputs are. `tests/unit/linalg/test_covariance_bound.py` has the example.

    Args:
        norms: Spectral norms of the two weights of each layer, 1 to l.
        steepness: Lipschitz constant of the activation function of each.
        sfe: Sum of ||W - W~||_F^2 over the layers of the network.
        inputs: ||Z||_F of the inputs.
        least: The m_l, the smaller Frobenius norm of the two networks' features.

    Returns:
        The bound, and that of the corollary for 1-Lipschitz activation functions, 4 ||Z||_F / m_l sqrt(l) S^(l-1)
        sqrt(SFE) with S the largest of the B_k; infinite where one is not 1-Lipschitz, or `least` is 0.
    """
    if least <= 0:
        return math.inf, math.inf
    largest = [max(pair) for pair in norms]
    without_one = [math.prod(largest[:j] + largest[j + 1 :]) for j in range(len(largest))]
    change = 4 * inputs / least * math.sqrt(sfe)
    bound = change * math.prod(steepness) * math.hypot(*without_one)
    one_lipschitz = all(constant <= 1 for constant in steepness)
    corollary = change * math.sqrt(len(largest)) * max(largest) ** (len(largest) - 1)
    return bound, corollary if one_lipschitz else math.inf


def srank_bound(w: Tensor, inputs: Tensor | None = None, *, delta: float = 0.01) -> int:
    """Theorem 3: a number that srank_delta of the features Z W^T cannot fall below.

    Args:
        w: One weight (d_out, d_in).
        inputs: Z (samples, d_in); None for whitened inputs, Z^T Z / samples = I.
        delta: As in `srank`.

    Raises:
        UserError: The assumption sqrt(DfI) < 1 does not hold; `delta` out of range; `w` is no single matrix.
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
        eta = eta[eta > _POSITIVE * eta[-1].clamp(min=0)]
        if not len(eta):
            return 0  # the features are all 0
        directions, spread = len(eta), math.sqrt(float(eta[-1] / eta[0]))
    stretch = math.sqrt((1 + e) / (1 - e)) * spread
    return math.ceil((1 - delta) * directions / (delta * stretch + 1 - delta) - 1e-12)


def dormancy_interval(w: Tensor) -> tuple[float, float]:
    """Theorem 4: the dormancy score of every unit lies between these, for Gaussian inputs and, say, ReLU.

    The score is a unit's mean absolute activation over that of all units of the layer (Sokar et al.).

    Args:
        w: One weight (d_out, d_in).

    Raises:
        UserError: The assumption sqrt(DfI) < 1 does not hold.
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


def hessian_factors(deviations: Iterable[float]) -> tuple[float, float]:
    """The two sums of theorem 2, which multiply beta and 2 gamma there; see `hessian_bound`.

    Args:
        deviations: DfI of W_1 .. W_L, in any order.

    Returns:
        sum_k prod_{j != k} nu_j and sum_{k < l} prod_{j not in {k, l}} nu_j with nu_k = 1 + sqrt(DfI(W_k)).
    """
    every, without_one, without_two = 1.0, 0.0, 0.0
    for deviation in deviations:
        nu = 1 + math.sqrt(deviation)
        every, without_one, without_two = every * nu, without_one * nu + every, without_two * nu + without_one
    return without_one, without_two


def hessian_bound(deviations: Iterable[float], *, beta: float, gamma: float, energy: float) -> float:
    """Theorem 2, corrected: a bound on the spectral norm of the Hessian of the mean loss in all weights.

    beta m sum_k prod_{j != k} nu_j + 2 gamma sqrt(m) sum_{k < l} prod_{j not in {k, l}} nu_j, with m the `energy`. It
    holds for a bias-free chain of linear layers and ReLUs whose gates stay as they are.

    The paper has m = 1 for whitened inputs. That is right for linear layers alone. With ReLU it is not: its lemma 2
    takes elementwise ReLU not to raise the largest singular value of a matrix, and it may. One layer W_1 = I of 32
    units, an isometry to one output, whitened inputs and a loss with beta = 1, gamma = 0 have a Hessian of norm 5.5
    where the paper's bound is 2. The norm of each sample does not grow, which gives the m below (ours).

    Args:
        deviations: DfI of W_1 .. W_L, in any order.
        beta: Bound on the norm of the Hessian of a sample's loss in the outputs; 1 for half the squared error.
        gamma: Bound on the norm of the gradient of a sample's loss in the outputs; 0 gives corollary 1.
        energy: Of the inputs Z (samples, d_in): the mean of ||z||^2, which is d_in for whitened ones; where there is no
            ReLU, lambda_max(Z^T Z / samples) will do.
    """
    single, pairs = hessian_factors(deviations)
    return beta * energy * single + 2 * gamma * math.sqrt(energy) * pairs


def _deviation(w: Tensor) -> float:
    """The e of theorems 3 and 4: sqrt(DfI) of one weight, below 1."""
    e = math.sqrt(float(dfi(w)))
    if e >= 1:
        raise UserError(why_no_promise(e, *w.shape))
    return e


def why_no_promise(e: float, d_out: int, d_in: int) -> str:
    """Why theorems 3 and 4 promise nothing of a weight (d_out, d_in) with e = sqrt(DfI); empty if e < 1."""
    if d_out > d_in:
        return f"sqrt(DfI) < 1 cannot hold: {d_in} to {d_out} expands, and DfI is at least {d_out - d_in}"
    return "" if e < 1 else f"sqrt(DfI) < 1 does not hold: it is {e:.3g}"
