"""The vocabulary of hidden units: their places in tensors, groups of them, and the units of a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class UnitSlice:
    """The places of a group's units in one tensor. Unit u has places u * slots to (u + 1) * slots along `dim`."""

    tensor: str
    """Name as in `named_parameters` or `named_buffers`."""
    dim: int = 0
    """Axis along which the units lie."""
    slots: int = 1
    """Consecutive places of each unit: 1. If a convolution is flattened into a Linear, the pixels of its map."""
    bias: str | None = None
    """The bias of the layer, for a weight that reads the units; None if there is none."""


@dataclass(frozen=True)
class UnitGroup:
    """Units of one layer that depend on these tensors alone, so that each unit can be drawn anew on its own."""

    name: str
    """Name under which `activations` reports their features, one per unit."""
    units: int
    """Number of units."""
    incoming: tuple[UnitSlice, ...]
    """The tensors that make a unit: first the weight whose rows feed it, then its bias, then the gain, bias and running
    statistics of a norm before the activation function."""
    outgoing: tuple[UnitSlice, ...]
    """The weights whose columns read the unit."""


@dataclass(frozen=True)
class UnitMap:
    """The units of a network."""

    groups: tuple[UnitGroup, ...]
    """The groups in the order in which a pass computes them."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Weights whose units cannot be reset on their own, each with the reason."""
