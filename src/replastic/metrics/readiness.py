"""Optimization readiness: strength of the gradient times its reliability."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from replastic.metrics._metric import register
from replastic.probes import optimization_readiness


@register(
    "readiness",
    on="loss",
    gradients=40,
    label="optimization readiness",
    better="higher",
    bounds=(0.0, None),
    logarithmic=True,
    reference="https://arxiv.org/abs/2605.09044",
)
def readiness(
    model: nn.Module,
    batches: Iterable[Any],
    loss_fn: Callable[[nn.Module, Any], Tensor],
    *,
    generator: torch.Generator,
) -> Tensor:
    """Optimization readiness (|g|^2 / L) (|g|^2 / E|g_B|^2): strength of the gradient g times its reliability.

    The share of the loss that one step of stochastic gradient descent removes is at least this over twice the
    smoothness of the loss. g_B are gradients of 64 random minibatches of 4 samples; the batch must hold 8 or more.
    Batch normalisation uses its running statistics. See `probes.Readiness`.

    Reference: Wang et al. (2026), after a public implementation of its equations.
    """
    values = [optimization_readiness(model, batch, loss_fn, generator=generator).value for batch in batches]
    return torch.tensor(values, dtype=torch.float64).mean()
