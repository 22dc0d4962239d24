"""Largest eigenvalue of the Hessian of the training loss, with the statistics of each batch."""

from __future__ import annotations

import torch
from torch import Tensor

from replastic.metrics._curvature import of_hessian, top_eigenvalue
from replastic.metrics._metric import register
from replastic.probes import HessianProduct


@register(
    "hessian_top_train",
    on="loss",
    gradients=90,
    vectors=30,
    label="largest Hessian eigenvalue (batch statistics)",
    reference="https://arxiv.org/abs/2602.08040",
)
@of_hessian(batch_statistics=True)
def hessian_top_train(product: HessianProduct, generator: torch.Generator, num_steps: int = 30) -> Tensor:
    """Largest eigenvalue of the Hessian of the mean loss over the batches, by Lanczos on Hessian-vector products.

    Batch normalisation uses the statistics of each batch, as in training, and is differentiated through them. Dropout
    is off. Without normalisation layers the value equals `hessian_top`, which uses the running statistics. It is a
    lower bound, which approaches the eigenvalue from below. 30 steps are enough for a trained network.

    Reference: FIRE (Han et al., ICLR 2026), figure 5.
    """
    return top_eigenvalue(product, generator, num_steps)
