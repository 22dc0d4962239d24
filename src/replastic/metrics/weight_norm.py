"""Norm of the weights. Its growth goes along with a loss of plasticity."""

from __future__ import annotations

import torch
from torch import Tensor

from replastic.metrics._metric import register
from replastic.weights.entries import MatrixInfo


@register(
    "weight_norm",
    on="weight",
    label="Frobenius norm, mean over matrices",
    plastic="lower",
    bounds=(0.0, None),
    reference="https://arxiv.org/abs/2402.18762",
)
def weight_norm(w: Tensor, info: MatrixInfo) -> Tensor:
    """Frobenius norm of each weight matrix.

    Lyle et al. (2024), section 3, name its growth as one of several causes of lost plasticity.
    """
    norm: Tensor = torch.linalg.vector_norm(w, dim=(-2, -1), dtype=torch.float64)
    return norm
