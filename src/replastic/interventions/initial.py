"""Initial values by name, whatever wrappers the names were taken with."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn.parameter import is_lazy

from replastic.errors import UserError
from replastic.weights.entries import WeightEntry
from replastic.weights.naming import strip_prefixes
from replastic.weights.shards import local
from replastic.weights.tables import all_finite, check_tensor


class Initial:
    """Values to return to or to compare with, read when asked for, so that the mapping may be a file."""

    def __init__(self, values: Mapping[str, Tensor] | None, noun: str = "initial weights") -> None:
        self._noun = noun
        self._values = values or {}
        self._names = {strip_prefixes(name): name for name in self._values}

    def of(self, entry: WeightEntry) -> Tensor | None:
        """The value for a stored tensor, under its name or an alias; None if there is none.

        Raises:
            UserError: Its shape is another, or it has no numbers that could be used.
        """
        w0 = self.unchecked(entry)
        if w0 is None:
            return None
        if is_lazy(w0):
            raise UserError(
                f"the initial value of {entry.name} was not drawn yet when the state dict was taken: take it, as a "
                "copy, after one forward pass and before training"
            )
        w0 = w0.detach()
        if tuple(w0.shape) != tuple(entry.shape):
            raise UserError(f"{entry.name} has shape {entry.shape}, but {tuple(w0.shape)} among the {self._noun}")
        if not all_finite(local(w0)):
            raise UserError(f"the initial value of {entry.name} holds NaN or infinite numbers; nothing was written")
        return w0

    def unchecked(self, entry: WeightEntry) -> Tensor | None:
        """The value for a stored tensor as it was given, without a look into it; None if there is none.

        Raises:
            UserError: It is no tensor.
        """
        name = next((self._names[n] for n in (entry.name, *entry.aliases) if n in self._names), None)
        return None if name is None else check_tensor(self._values[name], f"the initial value of {name}")

    def need(self, entry: WeightEntry, method: str) -> Tensor:
        """As `of`, for a method that cannot do without.

        Raises:
            UserError: There is none.
        """
        w0 = self.of(entry)
        if w0 is None:
            raise UserError(f"{method} needs the value of {entry.name}, which is not among the {self._noun}")
        return w0
