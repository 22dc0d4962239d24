"""Re-warmed learning rate: phases after the first are trained with another peak of the same schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from replastic.interventions.method import Method, register
from replastic.interventions.run import Run
from replastic.options import option


@register("rewarm", reference="https://arxiv.org/abs/2403.08763")
@dataclass(kw_only=True)
class Rewarm(Method):
    """Multiplies the learning rate of all phases after the first; the weights stay as they are.

    Where each phase warms the learning rate up and lets it decay again, that is what practitioners tune when they go
    on with pretraining: the peak to which it is re-warmed. With ``peak=1`` it trains as `base` does. Decoupled weight
    decay goes with the learning rate. Combines with any method: ``fire+rewarm:peak=0.3``.

    Reference: Ibrahim et al. (2024), who re-warm and re-decay the learning rate for every new data set. The warm-up
    and the decay are those of the run's own schedule.
    """

    takes_shards: ClassVar[bool] = True
    peak: float = option(
        0.5, help="factor on the learning rate in phases after the first", above=0, search=(0.1, 0.3, 0.5, 1.0, 2.0)
    )

    def rate(self, run: Run) -> float:
        """The factor, from the second phase on."""
        return self.peak if run.phase > 0 else 1.0
