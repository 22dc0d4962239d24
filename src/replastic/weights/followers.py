"""Copies of the weights that must follow a rewrite: target networks, moving averages, fp32 masters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from replastic.errors import UserError, did_you_mean
from replastic.weights.change import UnitReset
from replastic.weights.entries import UndoStep, WeightEntry
from replastic.weights.naming import strip_prefixes
from replastic.weights.shards import local
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


@dataclass(frozen=True)
class CopyPlace:
    """A place that holds a copy of a weight. The tensor is looked up at each use, since it may be replaced."""

    label: str
    """Name for messages."""
    lookups: tuple[Callable[[], Tensor | None], ...]
    """Each returns a tensor that is there now, or None; several if a tied tensor has several names."""

    def tensors(self) -> list[Tensor]:
        """The tensors that are there now: one, or several if tied ones were separated."""
        found = [tensor for look in self.lookups if (tensor := look()) is not None]
        return list({id(tensor): tensor for tensor in found}.values())


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

    @property
    def identities(self) -> frozenset[int]:
        """The identities of all their tensors."""
        return frozenset(id(tensor) for found in self._tensors.values() for tensor, _ in found.values())

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

    def copies(self, entry: WeightEntry) -> list[CopyPlace]:
        """The tensors that follow one weight: one of each follower, or several if tied weights are separate in it.

        Raises:
            UserError: A follower lacks the weight, or has it in another shape.
        """
        found: dict[int, CopyPlace] = {}
        for follower, tensors in self._tensors.items():
            names = [n for n in (entry.name, *entry.aliases) if n.startswith(self._parts[follower])]
            if not names:
                continue
            mine = {n: tensors[n] for n in names if n in tensors}
            if not mine:
                raise UserError(
                    f"follower {follower!r} has no {entry.name}, so it cannot follow; pass the copy of the same part "
                    "of the model, or leave it out and update it yourself"
                )
            for name, (tensor, now) in mine.items():
                if tuple(tensor.shape) != entry.shape:
                    raise UserError(
                        f"follower {follower!r} has {entry.name} in shape {tuple(tensor.shape)}, the model in "
                        f"{entry.shape}; it is not a copy of this model"
                    )
                before = found[id(tensor)].lookups if id(tensor) in found else ()
                found[id(tensor)] = CopyPlace(f"{name} of follower {follower!r}", (*before, now))
        return list(found.values())


@dataclass(frozen=True)
class Copy:
    """A tensor that follows a weight. It takes over the whole value, unless `units` or `before` say otherwise."""

    place: CopyPlace
    live: Tensor
    """The weight itself."""
    units: Sequence[UnitReset] = ()
    """The copy takes over these rows (or columns) of the weight and keeps the rest."""
    before: Tensor | None = None
    """The weight before the write. If given, the change of the weight is added to the copy, which may be an average of
    many values."""

    @torch.no_grad()
    def bring_up(self, copy: Tensor) -> None:
        """Write the change of the weight into the copy, a tensor. Of sharded ones each process writes its part."""
        copy = local(copy)
        live = local(self.live).to(copy)
        if self.before is None and not self.units:
            copy.copy_(live)
        if self.before is not None:
            copy.add_(live - self.before.to(copy))
        for unit in self.units:
            index = unit.index.to(copy.device)
            copy.index_copy_(unit.dim, index, live.index_select(unit.dim, index))


@torch.no_grad()
def follow(copies: Sequence[Copy], staging: str) -> UndoStep:
    """Bring every copy up to date. Returns the function that restores the old values.

    Args:
        copies: The copies.
        staging: Place of the old values; see `open_stage`.
    """
    stage = open_stage(staging)
    kept: list[tuple[int, Tensor, CopyPlace]] = []

    @torch.no_grad()
    def undo() -> list[str]:
        lost: list[str] = []
        for key, tensor, place in reversed(kept):
            now = [other for other in place.tensors() if other.shape == tensor.shape]
            for other in now:
                local(other).copy_(stage.get(key))
            if not now:
                lost.append(f"{place.label}, which is gone")
        stage.close()
        return lost

    try:
        for copy in copies:
            (tensor,) = copy.place.tensors()
            kept.append((stage.put(local(tensor).clone()), tensor, copy.place))
            copy.bring_up(tensor)
    except BaseException:
        undo()
        raise
    return undo


def _tensors(follower: str, given: Tensors | PartCopy) -> dict[str, tuple[Tensor, Callable[[], Tensor | None]]]:
    """Tensors by their names in the model, each with the function that looks it up again."""
    if isinstance(given, PartCopy):
        return {f"{given.of}.{name}": found for name, found in _tensors(follower, given.tensors).items()}
    if isinstance(given, nn.Module):
        pairs = [*given.named_parameters(remove_duplicate=False), *given.named_buffers(remove_duplicate=False)]
        return {strip_prefixes(name): (tensor, partial(_in_module, given, name)) for name, tensor in pairs}
    if isinstance(given, Mapping):
        table = check_table(given, f"follower {follower!r}")
        return {strip_prefixes(name): (tensor, partial(given.get, name)) for name, tensor in table.items()}
    raise UserError(
        f"follower {follower!r} must be a module or a mapping of names to tensors, got {type(given).__name__}"
    )


def _in_module(module: nn.Module, name: str) -> Tensor | None:
    path, _, attribute = name.rpartition(".")
    try:
        tensor: Tensor | None = getattr(module.get_submodule(path), attribute, None)
    except AttributeError:
        return None
    return tensor
