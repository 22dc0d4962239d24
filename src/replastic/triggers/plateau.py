"""Act when the training loss no longer falls."""

from __future__ import annotations

import math
from dataclasses import dataclass

from replastic.options import option
from replastic.triggers._trigger import Seen, Trigger, register


@register("plateau")
@dataclass(kw_only=True, eq=False)
class Plateau(Trigger):
    """Acts when the mean loss of `interval` updates has had no new low for `patience` looks. Ours.

    A new low is one that lies below the last by the share `least`. Set `above` where a task may be learned to the end:
    below that loss a plateau is no reason to act.
    """

    uses_loss = True

    interval: int = option(100, help="updates whose mean loss is one look", low=1)
    patience: int = option(5, help="looks without a new low", low=1)
    least: float = option(0.01, help="share by which a new low lies below the last one", low=0, below=1)
    above: float | None = option(None, help="no action while the loss is at most this; None for no such limit")

    @property
    def span(self) -> int:
        """The option `interval`."""
        return self.interval

    def decide(self, seen: Seen) -> str:
        """Count the looks since the last new low."""
        lowest, stale = self.memory.get("lowest", [math.inf, 0.0])
        if seen.loss < lowest - self.least * abs(lowest) or lowest == math.inf:
            lowest, stale = seen.loss, 0.0
        else:
            stale += 1
        self.memory["lowest"] = [lowest, stale]
        if stale < self.patience or (self.above is not None and seen.loss <= self.above):
            return ""
        return (
            f"the loss has not fallen for {int(stale)} looks of {self.interval} updates: it is {seen.loss:.4g}, "
            f"and was {lowest:.4g}"
        )
