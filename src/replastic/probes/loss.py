"""The loss on a batch from a user's function. Its result is checked, so that a mistake gets a clear message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from replastic.errors import UserError

EXAMPLE = "loss_fn=lambda model, batch: F.cross_entropy(model(batch[0]), batch[1])"


def check_loss_fn(loss_fn: object) -> None:
    """Raise `UserError` for an object that cannot be called as ``loss_fn(model, batch)``."""
    if not callable(loss_fn):
        raise UserError(f"loss_fn must be a function of model and batch, got {type(loss_fn).__name__}: {EXAMPLE}")
    if isinstance(loss_fn, nn.modules.loss._Loss):
        raise UserError(
            f"loss_fn must be a function of model and batch, but {type(loss_fn).__name__} takes outputs and targets: "
            "write loss_fn=lambda model, batch: criterion(model(batch[0]), batch[1])"
        )


def loss_on(
    model: nn.Module,
    batch: Any,
    loss_fn: Callable[[nn.Module, Any], Tensor],
    *,
    finite: bool = True,
    differentiable: bool = False,
) -> Tensor:
    """The loss of the model on one batch.

    Args:
        model: The model; its mode is left as it is.
        batch: The argument of `loss_fn`.
        loss_fn: Mean loss of the model on a batch. Its errors pass through, with a note on how it was called.
        finite: Whether a loss that is NaN or infinite is an error.
        differentiable: Whether the caller will differentiate the loss with respect to the parameters.

    Raises:
        UserError: The function does not return one number; or the number is not finite, or cannot be differentiated,
            although that was asked for.
    """
    check_loss_fn(loss_fn)
    if differentiable and torch.is_inference_mode_enabled():
        raise UserError("gradients are needed, which torch.inference_mode() forbids: make this call outside of it")
    try:
        loss = loss_fn(model, batch)
    except Exception as error:
        error.add_note(
            f"raised inside loss_fn, which was called as loss_fn(model, batch) with a {type(batch).__name__}"
        )
        raise
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
        raise UserError(f"loss_fn must return the mean loss as a tensor of one number, got {got}")
    if finite and not bool(torch.isfinite(loss).all()):
        raise UserError(
            f"the loss on the batch is {float(loss.detach())}: check the batch, then the weights "
            "(replastic.diagnose(model) names those that are NaN)"
        )
    if differentiable and not loss.requires_grad:
        raise UserError(
            "the loss does not depend on a trainable parameter: loss_fn must not detach it or compute it under "
            "no_grad, and some parameter must have requires_grad=True"
        )
    return loss.reshape(())
