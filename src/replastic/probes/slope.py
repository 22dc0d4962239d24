"""The gradient of the mean loss over batches, without dropout, and its norms."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from replastic.errors import UserError
from replastic.probes.gradients import differentiated
from replastic.probes.quiet import without_dropout


def mean_gradient(
    model: nn.Module,
    batches: Iterable[Any],
    loss_fn: Callable[[nn.Module, Any], Tensor],
    *,
    batch_statistics: bool = True,
) -> tuple[float, dict[str, Tensor]]:
    """The mean loss over the batches and its gradient by name of the trainable parameters; one training step a batch.

    Args:
        model: The model; left as it is, `.grad` too.
        batches: The arguments of `loss_fn`.
        loss_fn: Mean loss of the model on a batch.
        batch_statistics: As in `without_dropout`.

    Raises:
        UserError: No trainable parameter, no batch, or a loss that is not one finite number.
    """
    named = {n: p for n, p in model.named_parameters() if p.requires_grad and p.is_floating_point()}
    if not named:
        raise UserError("a gradient needs at least one trainable parameter: set requires_grad=True on some")
    total = {name: torch.zeros_like(p) for name, p in named.items()}
    losses = []
    with without_dropout(model, batch_statistics=batch_statistics):
        for batch in batches:
            loss, found = differentiated(model, batch, loss_fn, named)
            losses.append(float(loss))
            for name, gradient in found.items():
                total[name] += gradient
    if not losses:
        raise UserError("a gradient needs at least one batch")
    return sum(losses) / len(losses), {name: value / len(losses) for name, value in total.items()}


def gradient_norms(
    model: nn.Module,
    batches: Iterable[Any],
    loss_fn: Callable[[nn.Module, Any], Tensor],
    *,
    batch_statistics: bool = True,
) -> dict[str, Tensor]:
    """Norm of the gradient in the parameters of each module that has any: its name -> float64 scalar.

    The norm of the whole gradient is the root of the sum of squares. Parameters of the model itself, outside of its
    modules, count as ``model``. Arguments and errors are those of `mean_gradient`.
    """
    squares: dict[str, Tensor] = {}
    for name, gradient in mean_gradient(model, batches, loss_fn, batch_statistics=batch_statistics)[1].items():
        layer = name.rpartition(".")[0] or "model"
        squares[layer] = squares.get(layer, torch.zeros((), dtype=torch.float64)) + square(gradient)
    return {layer: value.sqrt() for layer, value in squares.items()}


def square(gradient: Tensor) -> Tensor:
    """Sum of squares, a float64 scalar on the CPU."""
    return gradient.detach().double().square().sum().cpu()
