"""The sum of the terms of a penalty."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def total(terms: Sequence[Tensor], strength: float = 1.0) -> Tensor | None:
    """The terms added up, times `strength`; None if there are none."""
    return strength * sum(terms[1:], start=terms[0]) if terms else None
