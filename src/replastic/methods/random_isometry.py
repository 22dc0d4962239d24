"""Random isometry (control): a random orthonormal matrix at fire's scale; isometry without the old directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from replastic import linalg
from replastic.interventions.draws import haar
from replastic.interventions.method import Solution, register
from replastic.interventions.polar import SOLVER_OPTIONS, PolarMethod
from replastic.weights.entries import MatrixInfo


@register("random_isometry")
@dataclass(kw_only=True)
class RandomIsometry(PolarMethod):
    """Puts a uniformly drawn (Haar) orthonormal matrix, at the scale fire would use, in place of each matrix.

    Same shape of spectrum and same scale as fire, none of the old directions; every spatial tap of a convolution is
    drawn on its own. Ours, as a control. Compare `orthogonal_reset`, which also drops fire's scale and taps.
    """

    draws: ClassVar[bool] = True
    batched: ClassVar[bool] = False

    def idle(self) -> frozenset[str]:
        """The polar factor is only computed for the scale that depends on it."""
        if self.scale == "procrustes":
            return super().idle()
        return frozenset({"solver", "on_zero", *SOLVER_OPTIONS})

    def solve(self, w: Tensor, info: MatrixInfo, w0: Tensor | None, generator: torch.Generator) -> Solution:
        """The scaled random isometries."""
        q = haar(w.shape, generator, w)
        if self.scale == "procrustes":
            scale = self.written(w, info, w0).scale
        else:
            scale = linalg.scale_factor(self.scale, w, q, taps=info.taps, w0=w0)
        return Solution(q * scale.to(q)[:, None, None], {"scale": scale})
