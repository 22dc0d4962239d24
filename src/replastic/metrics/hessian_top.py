"""Largest eigenvalue of the Hessian of the loss: the curvature in the sharpest direction at the weights."""

from __future__ import annotations

import torch
from torch import Tensor

from replastic.metrics._curvature import of_hessian, top_eigenvalue
from replastic.metrics._metric import register
from replastic.probes import HessianProduct


@register(
    "hessian_top",
    on="loss",
    gradients=90,
    vectors=30,
    label="largest Hessian eigenvalue (running statistics)",
    reference="https://arxiv.org/abs/2602.08040",
)
@of_hessian(batch_statistics=False)
def hessian_top(product: HessianProduct, generator: torch.Generator, num_steps: int = 30) -> Tensor:
    """Largest eigenvalue of the Hessian of the mean loss over the batches, by Lanczos on Hessian-vector products.

    The model is in evaluation mode, so batch normalisation uses its running statistics. After a method has rewritten
    weights, these are out of date; `hessian_top_train` uses batch statistics instead. The value is a lower bound, which
    approaches the eigenvalue from below. 30 steps are enough for a trained network.

    Reference: FIRE (Han et al., ICLR 2026), figure 5.
    """
    return top_eigenvalue(product, generator, num_steps)
