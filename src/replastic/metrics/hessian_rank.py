"""epsilon-rank of the Hessian, relative: how many directions are curved, beside the most curved one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from replastic.linalg import RELATIVE_EPSILON
from replastic.metrics._curvature import Densities, Quadrature
from replastic.metrics._metric import register
from replastic.options import option


@dataclass(frozen=True, kw_only=True)
class Options(Quadrature):
    """Options of `hessian_rank`."""

    name = "hessian_rank"

    epsilon: float = option(
        RELATIVE_EPSILON, help="share of the largest eigenvalue above which one counts", above=0, below=1
    )


@register(
    "hessian_rank",
    on="loss",
    label="Hessian epsilon-rank (0.01 of the largest eigenvalue)",
    better="higher",
    bounds=(0.0, None),
    logarithmic=True,
    prepare=Densities,
    options=Options,
    reference="https://arxiv.org/abs/2509.22335",
)
def hessian_rank(found: Densities, options: Options = Options()) -> Tensor:
    """Number of Hessian eigenvalues whose size is above 0.01 of the largest one.

    The threshold is a share of the largest eigenvalue (ours), so scaling the loss changes nothing. The paper's own is
    a size: `hessian_rank_absolute`. Both were fixed before any result was seen. Batch normalisation uses the
    statistics of the batch, as in training.

    A network with no more than 80 parameters gets its exact spectrum. Another one gets an estimate, from 2 random
    probes with 40 Lanczos steps each, on the first 128 samples of the batch: 80 Hessian-vector products. The options
    change that; `linalg.RankEstimate` has the error.

    Reference: He et al. (2025), who give no definition in full.
    """
    rank = found.density(options).rank(options.epsilon)
    return torch.tensor(rank.value, dtype=torch.float64)
