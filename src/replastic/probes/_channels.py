"""The channels of a network during one pass: the layer that made them, the tensors that hold them, their readers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from replastic.probes._unit_map import UnitSlice


class UnknownError(Exception):
    """A call whose effect on the channels is not known. Its text becomes the reason why they are no units."""


@dataclass(eq=False)
class Channels:
    """The outputs of one layer: the tensors that make them, the tensors that read them, and reasons against them."""

    count: int
    incoming: list[UnitSlice]
    outgoing: list[UnitSlice] = field(default_factory=list)
    activations: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    """Reasons why the channels are no units that can be reset on their own."""


@dataclass(frozen=True)
class Value:
    """A tensor of the pass. Channel c is at places c * slots to (c + 1) * slots of `axis`."""

    channels: Channels
    axis: int
    slots: int = 1
    active: bool = False
    """Whether the channels have passed an activation function."""


class Ledger:
    """All channels of a pass, and the tensors that hold them."""

    def __init__(self, model: nn.Module) -> None:
        self.tensors: dict[str, Tensor] = {
            **dict(model.named_parameters(remove_duplicate=False)),
            **dict(model.named_buffers(remove_duplicate=False)),
        }
        self.layers: list[Channels] = []
        self._names = {id(tensor): name for name, tensor in reversed(self.tensors.items())}
        self._values: dict[int, Value] = {}
        self._kept: dict[int, Tensor] = {}  # else a new tensor could get the id of one that is gone

    def name_of(self, tensor: Tensor | None) -> str | None:
        """The name of a parameter or buffer."""
        return self._names.get(id(tensor))

    def value_of(self, tensor: Any) -> Value | None:
        """The channels that a tensor holds, if any."""
        return self._values.get(id(tensor))

    def weighed(self, given: Tensor, weight: Tensor, bias: Tensor | None, axis: int) -> Value | None:
        """Note that the columns of a layer read the channels on `axis` of `given`. Each of its rows makes a channel."""
        value, name = self.value_of(given), self.name_of(weight)
        if value is not None:
            if name is None:
                value.channels.reasons.append("it is read by a weight that is computed from others")
            elif value.axis != axis:
                value.channels.reasons.append(f"{name} reads it along another axis")
            elif not value.active:
                value.channels.reasons.append(f"{name} reads it before an activation function")
            else:
                value.channels.outgoing.append(UnitSlice(name, 1, value.slots, self.name_of(bias)))
        incoming = [self.name_of(t) for t in (weight, bias) if t is not None]
        if None in incoming:
            return None
        self.layers.append(Channels(weight.shape[0], [UnitSlice(n) for n in incoming if n]))
        return Value(self.layers[-1], axis)

    def put(self, tensor: Tensor, value: Value | None) -> None:
        """Note the channels that a new tensor holds."""
        self._kept[id(tensor)] = tensor
        self._values.pop(id(tensor), None)
        if value is not None:
            self._values[id(tensor)] = value

    def came_from_nowhere(self, tensor: Tensor) -> bool:
        """Whether a tensor depends on the weights and was made by a call that the watcher did not see."""
        return id(tensor) not in self._kept and id(tensor) not in self._names and tensor.grad_fn is not None

    def spoil(self, tensors: Iterable[Tensor], reason: str) -> None:
        """Note a reason against the channels in these tensors."""
        for tensor in tensors:
            value = self._values.get(id(tensor))
            if value is not None:
                value.channels.reasons.append(reason)
