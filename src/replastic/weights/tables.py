"""Tables of tensors by name, as people pass them: checked before anything relies on them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from replastic.errors import UserError


def check_table(given: object, field: str) -> Mapping[str, Tensor]:
    """The table itself.

    Args:
        given: What was passed.
        field: What it was passed as, for messages.

    Raises:
        UserError: It is no mapping of names to tensors; the message says how to get one.
    """
    if isinstance(given, nn.Module):
        raise UserError(f"{field} must be a state dict, got the module itself: pass its state_dict()")
    if not isinstance(given, Mapping):
        hint = "; load the file first: torch.load, or safetensors.torch.load_file" if isinstance(given, str) else ""
        raise UserError(f"{field} must be a state dict (tensors by name), got {type(given).__name__}{hint}")
    for name, value in given.items():
        if not isinstance(name, str):
            raise UserError(f"{field} must have names as keys, got {name!r}")
        check_tensor(value, f"{field}: {name}")
    return given


def check_tensor(value: object, label: str) -> Tensor:
    """The tensor itself.

    Raises:
        UserError: It is something else.
    """
    if not isinstance(value, Tensor):
        raise UserError(f"{label} must be a tensor, got {type(value).__name__}")
    return value


def all_finite(value: Tensor) -> bool:
    """Whether no number is NaN or infinite; needs no memory."""
    if not value.is_floating_point() or not value.numel():
        return True
    return bool(torch.isfinite(torch.stack(torch.aminmax(value))).all())
