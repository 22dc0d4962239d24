"""Act every so many updates, whatever happens."""

from __future__ import annotations

from dataclasses import dataclass

from replastic.options import option
from replastic.triggers._trigger import Seen, Trigger, register


@register("every")
@dataclass(kw_only=True, eq=False)
class Every(Trigger):
    """Acts every `steps` updates. Ours: the clock that any cleverer trigger must beat."""

    steps: int = option(1000, help="updates from one action to the next", low=1)

    @property
    def span(self) -> int:
        """The option `steps`."""
        return self.steps

    def decide(self, seen: Seen) -> str:
        """Always, when it is time."""
        return f"{seen.updates} updates have passed"
