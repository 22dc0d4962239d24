"""Copies of the weights that must follow a rewrite: target networks, moving averages, fp32 masters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from replastic.errors import UserError, did_you_mean
from replastic.weights.change import UnitReset
from replastic.weights.entries import WeightEntry
from replastic.weights.naming import strip_prefixes
from replastic.weights.staging import open_stage
from replastic.weights.tables import check_table

Tensors = nn.Module | Mapping[str, Tensor]


@dataclass(frozen=True)
class PartCopy:
    """A copy of one part of the model alone, such as the target network of a critic."""

    tensors: Tensors
    of: str
    """Name of that part in the model. The copy does not follow weights outside it."""


Followers = Mapping[str, Tensors | PartCopy]


class FollowerSet:
    """Copies, by names that messages use: modules (also inside an `AveragedModel`) or mappings of tensors."""

    def __init__(self, followers: Followers | None) -> None:
        if not isinstance(followers, Mapping | None):
            raise UserError(
                f"followers must be a table of copies by name, such as {{'target': target_network}}, "
                f"got {type(followers).__name__}"
            )
        self._parts = {n: f"{f.of}." if isinstance(f, PartCopy) else "" for n, f in (followers or {}).items()}
        self._tensors = {name: _tensors(name, follower) for name, follower in (followers or {}).items()}

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the followers."""
        return tuple(self._tensors)

    def check(self, known: Iterable[str]) -> None:
        """See that the model has the parts that are followed.

        Args:
            known: Names of the model's weights.

        Raises:
            UserError: No weight lies in a part.
        """
        names = tuple(known)
        for follower, part in self._parts.items():
            if part and not any(name.startswith(part) for name in names):
                hint = did_you_mean(part[:-1], dict.fromkeys(name.rpartition(".")[0] for name in names))
                raise UserError(
                    f"follower {follower!r} copies {part[:-1]!r}, but no weight of the model is there{hint}"
                )

    def copies(self, entry: WeightEntry) -> list[Tensor]:
        """The tensors that follow one weight: one of each follower, or several if tied weights are separate in it.

        Raises:
            UserError: A follower lacks the weight, or has it in another shape.
        """
        found: dict[int, Tensor] = {}
        for follower, tensors in self._tensors.items():
            names = [n for n in (entry.name, *entry.aliases) if n.startswith(self._parts[follower])]
            if not names:
                continue
            mine = [tensors[n] for n in names if n in tensors]
            if not mine:
                raise UserError(
                    f"follower {follower!r} has no {entry.name}, so it cannot follow; pass the copy of the same part "
                    "of the model, or leave it out and update it yourself"
                )
            for tensor in mine:
                if tuple(tensor.shape) != entry.shape:
                    raise UserError(
                        f"follower {follower!r} has {entry.name} in shape {tuple(tensor.shape)}, the model in "
                        f"{entry.shape}; it is not a copy of this model"
                    )
                found[id(tensor)] = tensor
        return list(found.values())


@dataclass(frozen=True)
class Copy:
    """A tensor that follows a weight. It takes over the whole value, unless `units` or `before` say otherwise."""

    tensor: Tensor
    live: Tensor
    """The weight itself."""
    units: Sequence[UnitReset] = ()
    """The copy takes over these rows (or columns) of the weight and keeps the rest."""
    before: Tensor | None = None
    """The weight before the write. If given, the change of the weight is added to the copy, which may be an average of
    many values."""

    @torch.no_grad()
    def bring_up(self) -> None:
        """Write the change of the weight into the copy."""
        copy, live = self.tensor, self.live.to(self.tensor)
        if self.before is None and not self.units:
            copy.copy_(live)
        if self.before is not None:
            copy.add_(live - self.before.to(copy))
        for unit in self.units:
            index = unit.index.to(copy.device)
            copy.index_copy_(unit.dim, index, live.index_select(unit.dim, index))


@torch.no_grad()
def follow(copies: Sequence[Copy], staging: str) -> Callable[[], None]:
    """Bring every copy up to date. Returns the function that restores the old values.

    Args:
        copies: The copies.
        staging: Place of the old values; see `open_stage`.
    """
    stage = open_stage(staging)
    kept: list[tuple[int, Tensor]] = []

    @torch.no_grad()
    def undo() -> None:
        for key, tensor in reversed(kept):
            tensor.copy_(stage.get(key))
        stage.close()

    try:
        for copy in copies:
            kept.append((stage.put(copy.tensor.detach().clone()), copy.tensor))
            copy.bring_up()
    except BaseException:
        undo()
        raise
    return undo


def _tensors(follower: str, given: Tensors | PartCopy) -> dict[str, Tensor]:
    """Tensors by their names in the model."""
    if isinstance(given, PartCopy):
        return {f"{given.of}.{name}": tensor for name, tensor in _tensors(follower, given.tensors).items()}
    if isinstance(given, nn.Module):
        pairs = [*given.named_parameters(remove_duplicate=False), *given.named_buffers(remove_duplicate=False)]
        return {strip_prefixes(name): tensor for name, tensor in pairs}
    if isinstance(given, Mapping):
        return {strip_prefixes(name): tensor for name, tensor in check_table(given, f"follower {follower!r}").items()}
    raise UserError(
        f"follower {follower!r} must be a module or a mapping of names to tensors, got {type(given).__name__}"
    )
