"""The polar factor from the eigenvectors of the float64 Gram matrix."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from replastic.linalg.completion import RANK_TOLERANCE, complete_
from replastic.linalg.tall import Solved, Tall, gram_residual

_WELL_CONDITIONED = 3e3
"""Up to this condition number the last product runs in float32. Its error is about 1e-7 times the condition number."""


class InverseRoot(NamedTuple):
    """(W^T W)^(-1/2) of every matrix of a chunk, on the directions in which W is not zero."""

    transform: Tensor
    """(b, n, n) float64."""
    sigma: Tensor
    """(b, n) float64: singular values of W, ascending."""
    condition: Tensor
    """(b,) float64: condition number on the directions in which W is not zero."""
    missing: list[Tensor]
    """(n, d) float64 for every matrix: orthonormal columns, the directions in which W is zero."""

    def complete_(self, factors: Tensor, grams: Tensor) -> None:
        """Fill the missing directions of the factors (b, m, n), and update their Gram matrices in place."""
        for q, gram, missing in zip(factors, grams, self.missing, strict=True):
            if missing.shape[1] > 0:
                complete_(q, missing)
                gram.copy_(q.mT @ q)


def inverse_root(gram: Tensor) -> InverseRoot:
    """The inverse square root of float64 Gram matrices (b, n, n) by eigenvectors. None of them may be zero."""
    values, vectors = torch.linalg.eigh(gram)
    sigma = values.clamp_min(0).sqrt()
    kept = sigma > RANK_TOLERANCE * sigma[:, -1:]
    condition = sigma[:, -1] / torch.where(kept, sigma, torch.inf).amin(-1)
    missing = [v[:, ~k] for v, k in zip(vectors, kept, strict=True)]
    vectors *= torch.where(kept, sigma, torch.inf).rsqrt().unsqueeze(-2)
    return InverseRoot(vectors @ vectors.mT, sigma, condition, missing)


def exact_enough(root: InverseRoot) -> bool:
    """Whether the product of the weights with the root may run in float32."""
    return bool((root.condition <= _WELL_CONDITIONED).all())


def by_eigenvectors(tall: Tall, *, complete: bool = True) -> Solved:
    """W (W^T W)^(-1/2) by eigenvectors; see `exact`."""
    root = inverse_root(tall.gram(torch.float64))
    product = torch.zeros_like(root.condition)
    gram = tall.times(root.transform.to(tall.out.dtype if exact_enough(root) else torch.float64), product=product)
    if complete:
        root.complete_(tall.out, gram)
    return Solved(gram_residual(gram), product / root.sigma.sum(-1), 0)
