"""Data that arrives in stages of equal size: does a network that has grown with it still learn as well as a new one?"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from replastic.data import Dataset
from replastic.errors import UserError
from replastic.options import option
from replastic.streams._growing import Growing, shuffled
from replastic.streams._stream import register


@register("continual", reference="https://arxiv.org/abs/2602.08040")
@dataclass(frozen=True, kw_only=True)
class Continual(Growing):
    """Each stage brings as many new images as the others, drawn by the seed from all classes; scored on the test split.

    Ten stages show 10%, 20%, ... 100% of the data, as in the FIRE paper, section 4.1. Where the number of images is no
    multiple of the stages, sizes differ by one.
    """

    stages: int = option(10, help="number of stages", low=1)
    epochs: int = option(100, help="passes over its data in each stage", low=1)

    def __len__(self) -> int:
        """One phase per stage."""
        return self.stages

    def lasts(self, index: int) -> int:
        """`epochs` in every stage."""
        return self.epochs

    def parts(self, train: Dataset, seed: int) -> tuple[Tensor, ...]:
        """Random parts of equal size."""
        if self.stages > len(train):
            raise UserError(f"stages {self.stages} of {len(train)} images leave an empty stage; use fewer")
        order = shuffled(train, "continual", seed=seed)
        cuts = [stage * len(train) // self.stages for stage in range(self.stages + 1)]
        return tuple(order[first:last] for first, last in pairwise(cuts))
