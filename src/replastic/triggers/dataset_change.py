"""Act when the data change: told so, or seen by a jump of the training loss."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Literal

from replastic.options import option
from replastic.triggers._trigger import Seen, Trigger, register

_TO_DEVIATION = 1.4826
"""The median absolute deviation times this is the standard deviation of normal numbers."""


@register("dataset_change")
@dataclass(kw_only=True, eq=False)
class DatasetChange(Trigger):
    """Acts when the loss on new batches jumps against its recent past, or at a direct signal. Ours.

    A look is the mean loss of `interval` updates, each taken before the update. It is a jump if it lies above the
    median of the last `window` looks by more than `deviations` robust standard deviations of these, and by more than
    the share `rise` of the distance between the highest and the lowest look since the last action. The second keeps
    small ups and downs of a loss near zero from counting. The looks after an action fill the window anew.

    The signal is `changed=True` of `update`; in the phase loop it is the start of a phase that the stream announces.
    """

    uses_loss = True

    by: Literal["both", "loss", "signal"] = option("both", help="a jump of the loss, a direct signal, or either")
    interval: int = option(10, help="updates whose mean loss is one look", low=1)
    window: int = option(10, help="looks that make the recent past", low=3)
    deviations: float = option(4.0, help="size of a jump, in robust standard deviations of the window", low=0)
    rise: float = option(0.3, help="size of a jump, as a share of the range of the loss since the last action", low=0)

    @property
    def span(self) -> int:
        """The option `interval`."""
        return self.interval

    def signalled(self) -> str:
        """Act, unless only the loss counts."""
        return "" if self.by == "loss" else "the data changed, as was signalled"

    def decide(self, seen: Seen) -> str:
        """Compare the look with those in the window."""
        past, reason = self.memory.get("past", []), ""
        low, high = self.memory.get("range", [seen.loss, seen.loss])
        if len(past) == self.window and self.by != "signal":
            usual = statistics.median(past)
            spread = _TO_DEVIATION * statistics.median(abs(value - usual) for value in past)
            jump = seen.loss - usual
            if jump > max(self.deviations * spread, self.rise * (high - low), 0.0):
                reason = f"the loss jumped to {seen.loss:.4g} from {usual:.4g}"
        self.memory["past"] = [*past, seen.loss][-self.window :]
        self.memory["range"] = [min(low, seen.loss), max(high, seen.loss)]
        return reason
