"""Spread of the singular values of the weights: what isometry brings to 0."""

from __future__ import annotations

import torch
from torch import Tensor

from replastic import linalg
from replastic.metrics._metric import register
from replastic.weights.entries import MatrixInfo


@register(
    "singular_spread",
    on="weight",
    label="log10 of the condition number, mean over matrices",
    better="lower",
    bounds=(0.0, None),
    reference="https://arxiv.org/abs/2606.09762",
)
def singular_spread(w: Tensor, info: MatrixInfo) -> Tensor:
    """log10 of the largest over the smallest singular value of each weight matrix; 0 if all are equal.

    Penalties on the whole spectrum (`isometry`, `parseval`) and `fire` lower it; a bound on the scale or on the largest
    singular value does not. It is at most log10(1 / (n eps)) in float64, n the longer side: 12.8 for n = 784. A matrix
    of zeros, or one without full rank, has that value. The logarithm is ours.

    Reference: Rosseau et al. (2026), section 5.
    """
    rounding = max(w.shape[-2:]) * torch.finfo(torch.float64).eps
    return linalg.Spectrum(linalg.singular_values(w)).spread(rounding)
