"""The polar factor from the eigenvectors of the float64 Gram matrix: the library's default."""

from __future__ import annotations

import torch

from replastic.linalg.completion import RANK_TOLERANCE, complete_
from replastic.linalg.tall import Solved, Tall, gram_residual

_WELL_CONDITIONED = 1e3
"""Up to this condition number the last product runs in float32: its error is about 1e-7 times the condition number."""


def exact(tall: Tall, *, complete: bool = True) -> Solved:
    """W (W^T W)^(-1/2), the inverse square root taken in float64 on the n x n Gram matrix.

    Besides the weight and its factor it holds a few n x n matrices and one block of rows, whatever m is. A block is
    read before it is written, so the factor may overwrite the weight.

    Args:
        tall: The matrices, and where the factors go.
        complete: Fill the directions in which W is zero (singular value below 1e-6 of the largest), so that the factor
            is orthonormal; else it is the partial isometry of the directions W has.
    """
    values, vectors = torch.linalg.eigh(tall.gram(torch.float64))
    sigma = values.clamp_min(0).sqrt()
    kept = sigma > RANK_TOLERANCE * sigma[:, -1:]
    inverse = torch.where(kept, sigma, torch.inf).reciprocal()
    transform = (vectors * inverse.unsqueeze(-2)) @ vectors.mT
    condition = sigma[:, -1] * inverse.amax(-1)
    dtype = tall.out.dtype if bool((condition <= _WELL_CONDITIONED).all()) else torch.float64
    gram, product = tall.times(transform.to(dtype))
    if complete and not bool(kept.all()):
        for q, g, basis, keep in zip(tall.out, gram, vectors, kept, strict=True):
            if not bool(keep.all()):
                complete_(q, basis[:, ~keep])
                g.copy_(q.mT @ q)
    return Solved(gram_residual(gram), product / sigma.sum(-1), 0)
