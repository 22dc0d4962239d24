"""Largest eigenvalue of the Hessian of the loss: the sharpest direction at the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from replastic.metrics._curvature import top_eigenvalue
from replastic.metrics._metric import register
from replastic.probes import HessianProduct


@register(
    "hessian_top",
    on="loss",
    label="largest Hessian eigenvalue (running statistics)",
    reference="https://arxiv.org/abs/2602.08040",
)
def hessian_top(
    model: nn.Module,
    batches: Iterable[Any],
    loss_fn: Callable[[nn.Module, Any], Tensor],
    *,
    generator: torch.Generator,
    num_steps: int = 30,
) -> Tensor:
    """Largest eigenvalue of the Hessian of the mean loss over the batches, by Lanczos on Hessian-vector products.

    Taken in evaluation mode: batch normalisation uses its running statistics, which a method that rewrites weights
    leaves behind; `hessian_top_train` is the same with batch statistics. The value is a lower bound that closes in from
    below; 30 steps settle the top of a trained network's spectrum.

    Reference: FIRE (Han et al., ICLR 2026), figure 5.
    """
    return top_eigenvalue(HessianProduct(model, batches, loss_fn), generator, num_steps)
