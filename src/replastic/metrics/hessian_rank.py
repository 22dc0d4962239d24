"""epsilon-rank of the Hessian, relative: how many directions are curved, beside the most curved one."""

from __future__ import annotations

import torch
from torch import Tensor

from replastic.linalg import SpectralDensity
from replastic.metrics._curvature import density
from replastic.metrics._metric import register


@register(
    "hessian_rank",
    on="loss",
    label="Hessian epsilon-rank (0.01 of the largest eigenvalue)",
    better="higher",
    bounds=(0.0, None),
    logarithmic=True,
    prepare=density,
    reference="https://arxiv.org/abs/2509.22335",
)
def hessian_rank(found: SpectralDensity) -> Tensor:
    """Number of Hessian eigenvalues whose size is above 0.01 of the largest one.

    The threshold is a share of the largest eigenvalue (ours), so scaling the loss changes nothing. The paper's own is
    a size: `hessian_rank_absolute`. Both were fixed before any result was seen. Batch normalisation uses the
    statistics of the batch, as in training.

    A network with no more than 80 parameters gets its exact spectrum. Another one gets an estimate, from 2 random
    probes with 40 Lanczos steps each, on the first 128 samples of the batch: 80 Hessian-vector products. See
    `probes.hessian_density` for other numbers, and `RankEstimate` for the error.

    Reference: He et al. (2025), who give no definition in full.
    """
    return torch.tensor(found.rank().value, dtype=torch.float64)
