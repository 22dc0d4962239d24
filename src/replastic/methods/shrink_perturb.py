"""Shrink and perturb: every parameter is shrunk toward zero and gets a little noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from replastic.interventions.method import Scope, WeightMethod, register
from replastic.options import option
from replastic.weights.entries import MatrixInfo


@register("shrink_perturb", reference="https://arxiv.org/abs/1910.08475")
@dataclass(kw_only=True)
class ShrinkPerturb(WeightMethod):
    """Shrinks all trainable parameters and adds noise: theta <- shrink theta + N(0, perturb_std^2).

    Reference: Ash and Adams (2020), section 4. What the FIRE paper calls S&P is `interpolation`; its search values are
    used for `shrink` here.
    """

    draws: ClassVar[bool] = True
    scope: ClassVar[Scope] = "parameters"

    shrink: float = option(
        0.4, help="factor on the old weights: 1 keeps them, 0 drops them", low=0, high=1, search=(0.2, 0.4, 0.6, 0.8)
    )
    perturb_std: float = option(0.01, help="standard deviation of the noise, in weight units", low=0)

    def solve(self, w: Tensor, info: MatrixInfo, w0: Tensor | None, generator: torch.Generator) -> Tensor:
        """The shrunk and perturbed value."""
        noise = torch.empty_like(w).normal_(generator=generator)
        return self.shrink * w + self.perturb_std * noise
