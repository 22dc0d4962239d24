"""Proposals of methods: new weights by name, units to reset, modules to replace. The writer alone applies them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class LayerOutcome:
    """The change of one batch of matrices, done or proposed; serialises to JSON."""

    weight: str
    block: str
    kind: str
    batch: int
    d_out: int
    d_in: int
    method: str
    sfe: float
    """||W_new - W||_F^2, summed over the batch (squared Frobenius error, FIRE paper)."""
    normalised_sfe: float
    """SFE / ||W||_F^2 (ours)."""
    norm_before: float
    norm_after: float
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Facts from the method itself: solver, residual (worst of the batch), alignment, iterations, scale, ..."""
    known_by: str = ""
    """Source of the cut into matrices; see `WeightEntry.known_by`."""

    @property
    def label(self) -> str:
        """Name for messages: the weight's, with the block in brackets."""
        return f"{self.weight}[{self.block}]" if self.block else self.weight

    @property
    def distance(self) -> float:
        """||W_new - W||_F over the batch."""
        if self.norm_before > 0 and math.isfinite(self.normalised_sfe):
            return math.sqrt(self.normalised_sfe) * self.norm_before
        return math.sqrt(self.sfe)

    @property
    def passed_over(self) -> bool:
        """Whether every matrix is all zero and stayed so, since it has no polar factor (residual 1)."""
        return self.norm_before == self.norm_after == 0 and self.facts.get("residual") == 1


@dataclass(frozen=True)
class Skipped:
    """A tensor that was left alone, with the reason and, if there is one, the flag or argument that includes it."""

    weight: str
    reason: str


@dataclass(frozen=True)
class Proposal:
    """The new value of one stored tensor. The writer casts it to the stored dtype."""

    name: str
    value: Tensor
    layers: tuple[LayerOutcome, ...] = ()
    shift: bool = False
    """Whether the value is the old one with something added: copies that follow get as much added to their own."""
    kept: bool = False
    """Whether it was computed by an earlier call, which was killed."""


@dataclass(frozen=True)
class Proposals:
    """Proposals that are made as they are read, once. Their number and their costs are known before."""

    costs: Mapping[str, float]
    """Time that each takes, in units that they share, by the name of the tensor."""
    made: Iterator[Proposal]

    def __len__(self) -> int:
        return len(self.costs)

    def __iter__(self) -> Iterator[Proposal]:
        return self.made


@dataclass(frozen=True)
class UnitReset:
    """Rows (or columns) of one stored tensor that get new values. Only their optimizer moments are cleared.

    `values` has the shape of the tensor's selection `index_select(dim, index)`.
    """

    name: str
    dim: int
    index: Tensor
    values: Tensor


@dataclass(frozen=True)
class Change:
    """One proposal for the whole store. The writer reads it once.

    `proposals` may be lazy. Then one tensor at a time is in memory, for a checkpoint of any size.
    """

    proposals: Iterable[Proposal] = ()
    units: Iterable[UnitReset] = ()
    modules: Mapping[str, nn.Module] = field(default_factory=dict)
    """New modules by the names of those they replace (live models only)."""
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()
    """Sentences for the user, for `Outcome.notes`."""
    reset_optimizer: bool = False
    """Whether to drop the whole optimizer state under every policy (the control `optimizer_reset`)."""
