"""Norm of the gradient of the loss, whole and by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from replastic.metrics._metric import register
from replastic.probes import gradient_norms


@register(
    "gradient_norm",
    on="loss",
    label="gradient norm",
    total="norm",
    plastic="higher",
    bounds=(0.0, None),
    logarithmic=True,
    reference="https://arxiv.org/abs/2402.18762",
)
def gradient_norm(
    model: nn.Module,
    batches: Iterable[Any],
    loss_fn: Callable[[nn.Module, Any], Tensor],
    *,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Euclidean norm of the gradient of the mean loss, in all parameters and in those of each module.

    The gradient is that of all samples at once. Batch normalisation uses the statistics of the batch, as in training;
    dropout is off.

    Reference: Lyle et al. (2024), who name it among the symptoms of lost plasticity.
    """
    return gradient_norms(model, batches, loss_fn)
