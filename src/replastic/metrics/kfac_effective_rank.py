"""Effective rank of the Kronecker factors of the curvature: directions in the inputs times those in the gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from replastic.metrics._metric import register
from replastic.probes import kronecker_ranks


@register(
    "kfac_effective_rank",
    on="loss",
    gradients=3,
    label="effective rank of Kronecker factors, mean over layers",
    better="higher",
    bounds=(0.0, None),
    logarithmic=True,
    reference="https://arxiv.org/abs/2509.22335",
)
def kfac_effective_rank(
    model: nn.Module,
    batches: Iterable[Any],
    loss_fn: Callable[[nn.Module, Any], Tensor],
    *,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Effective rank of E[h h^T] times that of E[g g^T]: inputs h and output gradients g of a layer.

    The product is the effective rank of the layer's Kronecker-factored curvature. It is taken of the first 256 samples,
    of each Linear and convolution; see `probes.kronecker_ranks`.

    Reference: He et al. (2025), who motivate it; the definition is ours.
    """
    (batch, *_) = batches
    found = kronecker_ranks(model, batch, loss_fn)
    return {name: torch.tensor(rank.value, dtype=torch.float64) for name, rank in found.items()}
