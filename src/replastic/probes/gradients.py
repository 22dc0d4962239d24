"""The gradient of the loss on each batch. The model and its `.grad` stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from replastic.errors import UserError
from replastic.probes.loss import loss_on
from replastic.probes.quiet import undisturbed


def gradients(
    model: nn.Module,
    batches: Iterable[Any],
    loss_fn: Callable[[nn.Module, Any], Tensor],
    *,
    training: bool = True,
    seed: int | None = None,
) -> Iterator[dict[str, Tensor]]:
    """The gradient on each batch, by parameter name; zero for a parameter that the loss does not depend on.

    Between two batches the model is in the probe's mode. Read the iterator to its end, or close it, before you use the
    model.

    Args:
        model: The model. Its trainable parameters are differentiated; tied ones appear once.
        batches: The arguments of `loss_fn`, one after the other.
        loss_fn: Mean loss of the model on a batch.
        training: Mode of the model: True means batch statistics and dropout as in training, False neither.
        seed: Seed of dropout and of a loader that shuffles; None keeps the state of the global generators.
    """
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with undisturbed(model, training=training, seed=seed):
        for batch in batches:
            yield differentiated(model, batch, loss_fn, named)[1]


def differentiated(
    model: nn.Module, batch: Any, loss_fn: Callable[[nn.Module, Any], Tensor], named: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss on a batch in the model's present mode, and its gradient in the named parameters; see `loss_on`.

    Raises:
        UserError: The model is sharded with FSDP2, which gives gradients to `.grad` alone.
    """
    if any(hasattr(type(module), "set_reshard_after_forward") for module in model.modules()):
        raise UserError(
            "the gradient on a batch cannot be taken of a model that is sharded over processes (FSDP2): take it, or "
            "the method that needs it, on the unsharded model"
        )
    with torch.enable_grad():
        loss = loss_on(model, batch, loss_fn, differentiable=True)
        found = torch.autograd.grad(loss, list(named.values()), allow_unused=True, materialize_grads=True)
    return loss.detach(), dict(zip(named, found, strict=True))
