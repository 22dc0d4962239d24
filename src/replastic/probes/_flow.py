"""Follows the channels of a network through the torch calls of one pass, from the weight that makes them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from replastic.errors import UserError
from replastic.probes._channels import Channels, Ledger, UnknownError, Value
from replastic.probes._rules import RULES
from replastic.probes._trees import tensors
from replastic.probes._unit_map import UnitGroup, UnitMap
from replastic.probes.activations import ACTIVATIONS, Watcher

_READS = frozenset(("item", "tolist", "numpy", "__float__", "__int__", "__array__", "__setitem__"))
"""Calls that return no tensor, yet use the numbers in one."""


class Flow(Watcher):
    """Watches one pass of a model and notes the channels that every tensor holds."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(self._note_activation)
        self.ledger = Ledger(model)
        self._uses: Counter[str] = Counter()
        self._activation: tuple[str, int] | None = None

    def units(self) -> UnitMap:
        """The units that were found. Call it after the pass."""
        groups: list[UnitGroup] = []
        skipped: dict[str, str] = {}
        for layer in self.ledger.layers:
            reason = next(iter(layer.reasons), "") or self._unfit(layer)
            if reason:
                skipped.setdefault(layer.incoming[0].tensor, reason)
            else:
                name, incoming, outgoing = layer.activations[0], tuple(layer.incoming), tuple(layer.outgoing)
                groups.append(UnitGroup(name, layer.count, incoming, outgoing))
        return UnitMap(tuple(groups), skipped)

    def saw(self, func: Any, args: Any, kwargs: Any, output: Any) -> None:
        """Note which of the arguments' channels the results hold."""
        ledger, given, results = self.ledger, list(tensors((args, kwargs))), list(tensors(output))
        name = getattr(func, "__name__", str(func))
        if not results and name not in _READS:
            return
        for tensor in given:
            self._note_use(tensor)
        self._activation = None
        super().saw(func, args, kwargs, output)
        value: Value | None = None
        kind = name.removesuffix("_")
        try:
            if func in ACTIVATIONS:
                value = self._activated(given[0])
            elif (rule := RULES.get(kind)) is not None and len(results) == 1:
                value = rule(ledger, results[0], kind, *args, **kwargs)
            else:
                ledger.spoil(given, f"it is read by {name}")
        except UnknownError as unknown:
            ledger.spoil(given, str(unknown))
        except TypeError:  # called in a way that the rule does not know
            ledger.spoil(given, f"it is read by {name}")
        for tensor in results:
            ledger.put(tensor, value)

    def _note_activation(self, layer: str, output: Tensor, axis: int) -> None:
        self._activation = layer, axis

    def _activated(self, given: Tensor) -> Value | None:
        """The value after an activation function."""
        value = self.ledger.value_of(given)
        if value is None:
            return None
        if self._activation is None or value.slots > 1:
            raise UnknownError("its activation function comes after a flatten")
        layer, axis = self._activation
        if axis != value.axis:
            raise UnknownError(f"its units are on axis {value.axis}, but its activation function has them on {axis}")
        value.channels.activations.append(layer)
        return replace(value, active=True)

    def _leaving(self, module: nn.Module, inputs: Any, output: Any) -> None:
        super()._leaving(module, inputs, output)
        if not self.inside:
            self.ledger.spoil(tensors(output), "it is an output of the network")

    def _note_use(self, tensor: Tensor) -> None:
        name = self.ledger.name_of(tensor)
        if name is not None:
            self._uses[name] += 1
        if self.ledger.came_from_nowhere(tensor):
            raise UserError(
                "cannot find the hidden units: the model uses an operation that torch does not show, such as a "
                "scripted module or a C++ function; let the network declare its units with a method unit_groups()"
            )

    def _unfit(self, layer: Channels) -> str:
        if len(layer.activations) != 1:
            return f"{len(layer.activations) or 'no'} activation functions lie between it and the next layer"
        if not layer.outgoing:
            return "no later layer reads it"
        shared = [part.tensor for part in (*layer.incoming, *layer.outgoing) if self._uses[part.tensor] != 1]
        return f"{shared[0]} is used more than once" if shared else ""
