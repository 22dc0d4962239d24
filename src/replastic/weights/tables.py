"""Checks of tensors, and of tables of tensors by name, that a user passes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from replastic.errors import UserError


def check_table(given: object, field: str) -> Mapping[str, Tensor]:
    """The table itself, checked.

    Args:
        given: The argument.
        field: Name of the argument, for messages.

    Raises:
        UserError: The argument does not map names to tensors; the message says how to get such a table.
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
    """The tensor itself, checked.

    Raises:
        UserError: The value is not a tensor.
    """
    if not isinstance(value, Tensor):
        raise UserError(f"{label} must be a tensor, got {type(value).__name__}")
    return value


def all_finite(value: Tensor) -> bool:
    """Whether no number is NaN or infinite. Needs no further memory."""
    if not value.is_floating_point() or not value.numel():
        return True
    return bool(torch.isfinite(torch.stack(torch.aminmax(value))).all())


def check_finite(name: str, value: Tensor) -> None:
    """Refuse a new value with NaN or infinity, also those that only the stored dtype makes.

    Raises:
        UserError: There is one; the message names the weight.
    """
    if not all_finite(value):
        bad = int(value.numel() - torch.isfinite(value).sum())
        raise UserError(
            f"the new value of {name} has {bad} of {value.numel()} numbers that are NaN or infinite "
            f"in {value.dtype}; nothing was written"
        )
