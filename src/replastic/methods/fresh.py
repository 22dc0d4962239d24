"""Fresh: every parameter and buffer is drawn anew, as if training began with another seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from replastic.methods._draws import draw_seed
from replastic.methods._interface import Need, Run, Scope, WeightMethod
from replastic.methods._propose import propose
from replastic.methods._registry import register
from replastic.weights.change import Change
from replastic.weights.entries import MatrixInfo
from replastic.weights.tables import check_table


@register("fresh")
@dataclass(kw_only=True)
class Fresh(WeightMethod):
    """Puts a new random draw in place of every trainable parameter and every buffer.

    Like `full_reset`, with a different draw at every boundary: the run's seed and the phase decide it.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"fresh"})
    draws: ClassVar[bool] = True
    scope: ClassVar[Scope] = "state"

    def on_boundary(self, run: Run) -> Change:
        """Propose the new draw."""
        assert run.fresh is not None
        drawn = check_table(run.fresh(draw_seed(run)), "what fresh(seed) returns")
        return propose(self, run, reference=drawn)

    def solve(self, w: Tensor, info: MatrixInfo, w0: Tensor | None, generator: torch.Generator) -> Tensor:
        """The new value, which `on_boundary` hands in as the initial one."""
        assert w0 is not None
        return w0
