"""The view `Attached` has of what decides when a method acts; the triggers are such."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Acted:
    """An action between two phases that a trigger brought about."""

    step: int
    """Updates since training began."""
    reason: str
    """In words and numbers, as the trigger gave it."""


class Watch(Protocol):
    """Decides after every update whether the method should act now, as between two phases."""

    def update(self, loss: Tensor | float | None = None, *, changed: bool = False) -> str:
        """Take note of an update.

        Args:
            loss: The training loss of the update.
            changed: Whether the caller knows that the data changed.

        Returns:
            The reason why the method should act now; empty if it should not.
        """

    def acted(self) -> None:
        """Take note that the method has acted, for whatever reason."""

    def state_dict(self) -> dict[str, Tensor]:
        """All it remembers, as tensors by name."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` gave."""
