"""Rescale (control): fire's norms with the shape of the old spectrum; shows the effect of the scale alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from replastic.interventions.method import Solution, register
from replastic.interventions.polar import PolarMethod
from replastic.weights.entries import MatrixInfo


@register("rescale")
@dataclass(kw_only=True)
class Rescale(PolarMethod):
    """Multiplies each matrix by the factor that gives it the Frobenius norm fire would write.

    Directions and the ratios of singular values stay; only fire's scale is taken over. Ours, as a control.
    """

    def solve(self, w: Tensor, info: MatrixInfo, w0: Tensor | None, generator: torch.Generator) -> Solution:
        """The old matrices with fire's norms; an all-zero one stays zero, since no factor gives it a norm."""
        wanted = torch.linalg.matrix_norm(self.written(w, info, w0).weight)
        norm = torch.linalg.matrix_norm(w)
        factor = torch.where(norm > 0, wanted / norm, 1.0)
        return Solution(w * factor[:, None, None], {"factor": factor})
