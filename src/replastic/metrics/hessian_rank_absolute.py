"""epsilon-rank of the Hessian, absolute: how many directions are curved more than a fixed amount."""

from __future__ import annotations

import torch
from torch import Tensor

from replastic.linalg import ABSOLUTE_EPSILON, SpectralDensity
from replastic.metrics._curvature import density
from replastic.metrics._metric import register


@register(
    "hessian_rank_absolute",
    on="loss",
    label="Hessian epsilon-rank (eigenvalues above 0.03)",
    better="higher",
    bounds=(0.0, None),
    logarithmic=True,
    prepare=density,
    reference="https://arxiv.org/abs/2509.22335",
)
def hessian_rank_absolute(found: SpectralDensity) -> Tensor:
    """Number of Hessian eigenvalues whose size is above 0.03, in units of the loss.

    The authors search their threshold for each data set, between 0.01 and 0.08, for the best fit to the accuracy.
    Ours is the middle of that range on a logarithmic scale, fixed before any result was seen. The value is computed
    as in `hessian_rank`. The smaller the threshold beside the largest eigenvalue, the coarser the estimate.

    Reference: He et al. (2025), and their public code.
    """
    return torch.tensor(found.rank(ABSOLUTE_EPSILON, relative=False).value, dtype=torch.float64)
