"""What methods propose: new weights by name, units to reset, modules to replace. The writer alone applies it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class LayerOutcome:
    """What happened, or would happen, to one batch of matrices; serialises to JSON."""

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
    """What the method itself reports: solver, residual (worst of the batch), alignment, iterations, scale, ..."""

    @property
    def label(self) -> str:
        """Name for messages: the weight's, with the block in brackets."""
        return f"{self.weight}[{self.block}]" if self.block else self.weight

    @property
    def passed_over(self) -> bool:
        """Whether every matrix is all zero and, having no polar factor (residual 1), stayed so."""
        return self.norm_before == self.norm_after == 0 and self.facts.get("residual") == 1


@dataclass(frozen=True)
class Skipped:
    """A tensor that was left alone, and why, with the flag or argument that would include it where there is one."""

    weight: str
    reason: str


@dataclass(frozen=True)
class Proposal:
    """The new value of one stored tensor; the writer casts it to the stored dtype."""

    name: str
    value: Tensor
    layers: tuple[LayerOutcome, ...] = ()
    shift: bool = False
    """Whether the value is the old one with something added: copies that follow get as much added to their own."""


@dataclass(frozen=True)
class UnitReset:
    """Rows (or columns) of one stored tensor that get new values; optimizer moments are cleared in just these.

    `values` has the shape of the tensor's selection `index_select(dim, index)`.
    """

    name: str
    dim: int
    index: Tensor
    values: Tensor


@dataclass(frozen=True)
class Change:
    """One proposal for the whole store, read once by the writer.

    `proposals` may be lazy, so that a checkpoint of any size passes through with one tensor in memory.
    """

    proposals: Iterable[Proposal] = ()
    units: Iterable[UnitReset] = ()
    modules: Mapping[str, nn.Module] = field(default_factory=dict)
    """Modules to put in place of those at these names (live modules only)."""
    skipped: tuple[Skipped, ...] = ()
    reset_optimizer: bool = False
    """The whole optimizer state is to be dropped, whatever the run's policy (the control `optimizer_reset`)."""
