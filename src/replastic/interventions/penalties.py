"""Penalties: the sum of their terms, and the precision in which they are computed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn


def total(terms: Sequence[Tensor], strength: float = 1.0) -> Tensor | None:
    """The terms added up, times `strength`; None if there are none."""
    return strength * sum(terms[1:], start=terms[0]) if terms else None


def in_full_precision(model: nn.Module) -> AbstractContextManager[object]:
    """A context in which autocast is off on the model's device."""
    device = next((p.device.type for p in model.parameters()), "cpu")
    if not torch.is_autocast_enabled(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)
