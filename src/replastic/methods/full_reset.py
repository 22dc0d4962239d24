"""Full reset: every parameter and buffer goes back to its stored initial value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from replastic.interventions.method import Scope, WeightMethod, register
from replastic.interventions.run import Need
from replastic.weights.entries import MatrixInfo


@register("full_reset", reference="https://arxiv.org/abs/2602.08040")
@dataclass(kw_only=True)
class FullReset(WeightMethod):
    """Puts every trainable parameter and every buffer back to its stored initial value.

    Reference: the baseline "full reset" of FIRE (Han et al., ICLR 2026), section 5. The draw is the same at every
    boundary; `fresh` makes a new one.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"init"})
    scope: ClassVar[Scope] = "state"

    def solve(self, w: Tensor, info: MatrixInfo, w0: Tensor | None, generator: torch.Generator) -> Tensor:
        """The initial value."""
        assert w0 is not None
        return w0
