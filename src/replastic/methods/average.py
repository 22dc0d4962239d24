"""Average of checkpoints: the network becomes the mean of its last checkpoints of the phase just ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from replastic.errors import UserError
from replastic.interventions.earlier import Earlier
from replastic.interventions.method import register
from replastic.interventions.run import Run
from replastic.options import option


@register("average", reference="https://arxiv.org/abs/1803.05407")
@dataclass(kw_only=True)
class Average(Earlier):
    """Puts the mean of the last checkpoints of the phase in place of all trainable parameters and of the buffers.

    Counters and other integers are those of the last one. Running statistics of batch normalisation are averaged like
    weights; ``average+bn_reestimate`` takes those of the mean network.

    Reference: Izmailov et al. (2018), algorithm 1, with the plain mean of checkpoints at equal distances; their cyclic
    step sizes are a matter of the schedule.
    """

    last: int = option(5, help="number of checkpoints, the last ones of the phase", low=2)

    def reference(self, run: Run) -> Mapping[str, Tensor]:
        """The mean, summed in float64."""
        kept = self.kept(run)
        if len(kept) < self.last:
            raise UserError(
                f"average:last={self.last} needs that many checkpoints of the phase that has ended, and there are "
                f"{len(kept)}: take last={len(kept)}, or evaluate more often"
            )
        *others, end = (checkpoint.load() for checkpoint in kept[-self.last :])
        return {name: self._mean([table[name] for table in (*others, end)]) for name in end}

    def _mean(self, values: list[Tensor]) -> Tensor:
        if not values[-1].is_floating_point():
            return values[-1]
        total = torch.zeros_like(values[-1], dtype=torch.float64)
        for value in values:
            total += value
        return (total / len(values)).to(values[-1].dtype)
