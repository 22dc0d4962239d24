"""Fresh: every parameter and buffer is drawn anew, as if training began with another seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from replastic.interventions.draws import drawn
from replastic.interventions.method import Scope, WeightMethod, register
from replastic.interventions.run import Need, Run
from replastic.weights.entries import MatrixInfo


@register("fresh")
@dataclass(kw_only=True)
class Fresh(WeightMethod):
    """Puts a new random draw in place of every trainable parameter and every buffer.

    Like `full_reset`, with a different draw at every boundary: the run's seed and the phase decide it.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"fresh"})
    draws: ClassVar[bool] = True
    scope: ClassVar[Scope] = "state"

    def reference(self, run: Run) -> Mapping[str, Tensor]:
        """The new draw."""
        return drawn(run)

    def solve(self, w: Tensor, info: MatrixInfo, w0: Tensor | None, generator: torch.Generator) -> Tensor:
        """The new value."""
        assert w0 is not None
        return w0
