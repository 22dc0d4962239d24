"""The words for hidden units: where they lie in tensors, groups of them, and what was found in a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class UnitSlice:
    """Where the units of a group are in one tensor: unit u has places u * slots to (u + 1) * slots along `dim`."""

    tensor: str
    """Name as in `named_parameters` or `named_buffers`."""
    dim: int = 0
    """Axis along which the units lie."""
    slots: int = 1
    """Consecutive places per unit: 1, but the pixels of a map where a convolution is flattened into a Linear."""
    bias: str | None = None
    """For a weight that reads the units: the bias of its layer, if it has one."""


@dataclass(frozen=True)
class UnitGroup:
    """Units of one layer that nothing but these tensors depends on: each can be drawn anew on its own."""

    name: str
    """Under which `activations` reports their features, one per unit."""
    units: int
    """How many."""
    incoming: tuple[UnitSlice, ...]
    """What makes a unit: first the weight whose rows feed it, then its bias and what a norm before the activation
    function keeps of it (gain, bias, running statistics)."""
    outgoing: tuple[UnitSlice, ...]
    """The weights whose columns read it."""


@dataclass(frozen=True)
class UnitMap:
    """The units of a network."""

    groups: tuple[UnitGroup, ...]
    """In the order in which they are computed."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Weights whose units are not resettable alone, each with the reason."""
