"""Matched noise (control): a random step of exactly the size of fire's; shows the effect of size alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from replastic import linalg
from replastic.interventions.method import Solution, register
from replastic.interventions.polar import PolarMethod
from replastic.weights.entries import MatrixInfo


@register("noise_matched")
@dataclass(kw_only=True)
class NoiseMatched(PolarMethod):
    """Adds Gaussian noise to each matrix, scaled to the squared Frobenius error that fire would make on it.

    Ours, as a control.
    """

    draws: ClassVar[bool] = True
    batched: ClassVar[bool] = False

    def solve(self, w: Tensor, info: MatrixInfo, w0: Tensor | None, generator: torch.Generator) -> Solution:
        """The perturbed matrices."""
        distance = linalg.sfe(self.written(w, info, w0).weight, w).sqrt()
        noise = torch.empty_like(w).normal_(generator=generator)
        factor = distance / torch.linalg.matrix_norm(noise.double())
        return Solution(w + noise * factor.to(w)[:, None, None], {"noise_norm": distance})
