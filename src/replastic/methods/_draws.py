"""Seeds and random matrices of the methods that draw."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from replastic.methods._interface import Run
from replastic.seeds import derive


def draw_seed(run: Run) -> int:
    """The seed of a new draw of the whole network at this boundary: 32 bits, as much as every library takes."""
    return derive(run.seed, run.phase, "fresh") % 2**32


def haar(shape: Sequence[int], generator: torch.Generator, like: Tensor) -> Tensor:
    """Random matrices (*B, m, n) with orthonormal columns (rows if m < n), uniform over all such.

    The Q of a Gaussian matrix, its columns' signs set by the diagonal of R; without that it is not uniform.

    Reference: Mezzadri, How to generate random matrices from the classical compact groups (2007), section 5.
    """
    *batch, m, n = shape
    tall = torch.empty((*batch, max(m, n), min(m, n)), dtype=like.dtype, device=like.device)
    q: Tensor
    q, r = torch.linalg.qr(tall.normal_(generator=generator))
    sign = torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(q)
    q = q * sign.unsqueeze(-2)
    return q if m >= n else q.mT
