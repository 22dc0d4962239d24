"""The effective rank of a matrix with its gradient in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-8
"""Added to each share in the logarithm, and the least sum of singular values that is divided by."""


def effective_rank_gradient(w: Tensor) -> tuple[Tensor, Tensor]:
    """Effective rank of a matrix, exp(-sum p log(p + eps)) with p = s / max(sum s, eps), and its gradient.

    The gradient is U diag(d rank / d s) V^T. Singular values come from the smaller Gram matrix in float64. Those that
    are zero but for rounding have no direction of their own and get none: the gradient is 0 there.

    Shapes: (m, n) -> scalar float64, (m, n) in the dtype of `w`.

    Reference: Roy and Vetterli (2007); eps = 1e-8 in the logarithm as in the code of He et al. (2025).
    """
    exact = w.detach().double()
    wide = exact.shape[0] <= exact.shape[1]
    values, vectors = torch.linalg.eigh(exact @ exact.mT if wide else exact.mT @ exact)
    s = values.clamp(min=0).sqrt()
    size = max(exact.shape)
    rounding = max(size * torch.finfo(w.dtype).eps, (size * torch.finfo(torch.float64).eps) ** 0.5)
    with torch.enable_grad():
        leaf = s.detach().requires_grad_()
        p = leaf / leaf.sum().clamp(min=EPS)
        rank = (-(p * (p + EPS).log()).sum()).exp()
        (slope,) = torch.autograd.grad(rank, leaf)
    there = s > rounding * s.max()
    factor = torch.where(there, slope / torch.where(there, s, 1), 0)
    inner = vectors * factor @ vectors.mT
    gradient = inner @ exact if wide else exact @ inner
    return rank.detach(), gradient.to(w.dtype)
