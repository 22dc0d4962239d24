"""A pass of a model on a batch, the inputs of its Linears in that pass, and a check of features."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from replastic.errors import UserError


def forward_on(model: nn.Module, batch: Any) -> object:
    """Run the model on a batch, or on its first part if it is a list or tuple.

    Errors of the model pass through, with a note.

    Raises:
        UserError: The batch is an empty tuple or list.
    """
    if isinstance(batch, list | tuple) and not batch:
        raise UserError("the batch is empty")
    inputs = batch[0] if isinstance(batch, list | tuple) else batch
    try:
        return model(inputs)
    except Exception as error:
        error.add_note(f"raised by the model, which was called with the batch (a {type(inputs).__name__})")
        raise


def check_features(label: str, features: Tensor) -> None:
    """Raise `UserError` for features without samples, or with NaN or infinite numbers."""
    if not features.numel():
        raise UserError("the batch holds no samples")
    if not bool(torch.isfinite(features).all()):
        raise UserError(
            f"{label} holds NaN or infinite numbers on this batch: check the batch, then the weights, biases and "
            "running statistics before it"
        )


@contextmanager
def linear_inputs(model: nn.Module, visit: Callable[[nn.Linear, Tensor], None]) -> Iterator[None]:
    """Call `visit(layer, inputs)` before each Linear that runs inside the `with` block.

    `inputs` is the layer's input in its own shape (..., d_in), detached. The hooks are removed at the end of the block,
    after an error too.
    """

    def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = args[0] if args else kwargs.get("input")
        if isinstance(layer, nn.Linear) and isinstance(given, Tensor):
            visit(layer, given.detach())

    with ExitStack() as hooks:
        for module in model.modules():
            if isinstance(module, nn.Linear):
                hooks.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield
