"""Triggers that compare a measure of each layer with its own value at the start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from replastic.options import option
from replastic.records import metric_name
from replastic.triggers._trigger import Seen, Trigger


@dataclass(kw_only=True, eq=False)
class AgainstStart(Trigger):
    """Acts when a measure of enough layers went too far from its own value at the start.

    Where an action leaves a layer worse than it was at the start, its value after the action takes the place of that
    at the start until the next action: a trigger that the method cannot satisfy does not act at every look. The value
    after an action is that of the first look behind it. A measure without layers counts as one layer.
    """

    interval: int = option(100, help="updates between two looks", low=1)
    layers: float = option(0.5, help="share of the layers that must have gone so far", above=0, high=1)

    @property
    def span(self) -> int:
        """The option `interval`."""
        return self.interval

    def is_worse(self, value: float, reference: float) -> bool:
        """Whether a value is so far from the reference that the method should act."""
        raise NotImplementedError

    def worse_of(self, one: float, other: float) -> float:
        """The worse of two values."""
        raise NotImplementedError

    def start(self, values: Mapping[str, float]) -> None:
        """Keep the value of each layer."""
        self.memory |= {f"start/{name}": [value] for name, value in _of_layers(values).items()}

    def decide(self, seen: Seen) -> str:
        """Compare every layer with itself."""
        gone = {}
        found = _of_layers(seen.values)
        for name, value in found.items():
            start = self.memory.setdefault(f"start/{name}", [value])[0]
            after = self.memory.setdefault(f"after/{name}", [value])[0] if "start/acted" in self.memory else start
            reference = self.worse_of(start, after)
            if self.is_worse(value, reference):
                gone[name] = value, reference
        if not gone or len(gone) < self.layers * len(found):
            return ""
        name, (value, reference) = next(iter(gone.items()))
        others = f" and {len(gone) - 1} more of {len(found)} layers" if len(found) > 1 else ""
        return f"{metric_name(name)} is {value:.4g}, and was {reference:.4g}{others}"

    def acted(self) -> None:
        """Forget the values after the action before."""
        super().acted()
        self.memory["start/acted"] = [1.0]


def _of_layers(values: Mapping[str, float]) -> dict[str, float]:
    """The values of single layers; that of the network where there are no layers."""
    layers = {name: value for name, value in values.items() if "/" in metric_name(name)}
    return layers or dict(values)
