"""New draws of the network, and random matrices, for the methods that draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from replastic.interventions.run import Run
from replastic.seeds import derive
from replastic.weights.tables import check_table


def drawn(run: Run, *purpose: str | int) -> Mapping[str, Tensor]:
    """A new draw of every tensor of the network, by name: for a purpose of its own, or else the one of this boundary.

    Its seed has 32 bits, as much as every library takes.

    Raises:
        UserError: What `Run.fresh` returns is no table of tensors.
    """
    assert run.fresh is not None
    seed = derive(run.seed, *(purpose or (run.phase, "fresh"))) % 2**32
    return check_table(run.fresh(seed), "what fresh(seed) returns")


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
