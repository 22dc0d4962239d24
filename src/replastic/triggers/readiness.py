"""Act when the network is no longer ready to learn: its gradient has become weak or unreliable."""

from __future__ import annotations

from dataclasses import dataclass

from replastic.options import option
from replastic.triggers._trigger import Seen, Trigger, register


@register("readiness", reference="https://arxiv.org/abs/2605.09044")
@dataclass(kw_only=True, eq=False)
class Readiness(Trigger):
    """Acts when the optimization readiness has fallen to the share `left` of its peak since the last action.

    The peak is compared with, not the start: a network is often less ready at initialisation than some updates later.
    Readiness falls as well when a task has been learned; with `above` set, nothing happens while the loss is at most
    that.

    Reference: Wang et al. (2026), optimization readiness, for the measure; the rule is ours.
    """

    uses_loss = True

    interval: int = option(100, help="updates between two looks", low=1)
    left: float = option(0.1, help="share of its peak to which the readiness must have fallen", above=0, below=1)
    above: float | None = option(None, help="no action while the loss is at most this; None for no such limit")

    @property
    def span(self) -> int:
        """The option `interval`."""
        return self.interval

    def measures(self) -> tuple[str, ...]:
        """The measure of the same name."""
        return ("readiness",)

    def decide(self, seen: Seen) -> str:
        """Compare the look with the highest since the last action."""
        value = next(iter(seen.values.values()))
        peak = max([value, *self.memory.get("peak", [])])
        self.memory["peak"] = [peak]
        if value > self.left * peak or (self.above is not None and seen.loss <= self.above):
            return ""
        return f"the readiness is {value:.4g}, and was {peak:.4g} at its peak"
