"""Fire: every weight matrix becomes the nearest orthonormal one, scaled; the least change that restores isometry."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from replastic.interventions.method import Solution, register
from replastic.interventions.polar import PolarMethod
from replastic.weights.entries import MatrixInfo


@register("fire", reference="https://arxiv.org/abs/2602.08040")
@dataclass(kw_only=True)
class Fire(PolarMethod):
    """Projects every weight matrix to its polar factor, the nearest orthonormal matrix, times a scale.

    Solves min ||V - W||_F^2 subject to V^T V = I (or V V^T = I where d_out < d_in) by V = W (W^T W)^(-1/2), for each
    spatial tap of a convolution on its own, then multiplies by sqrt(d_out/d_in) (convolutions: over kh*kw as well).

    Reference: FIRE (Han et al., ICLR 2026), section 3, Algorithm 1 (``solver="newton_schulz"``, 10 steps, 5 for
    language), Appendix A.2 (``coefficients="quintic"``). The default solver differs: it reaches the factor, which the
    paper's number of steps does not. The recipes ``paper-*`` set the paper's.
    """

    def solve(self, w: Tensor, info: MatrixInfo, w0: Tensor | None, generator: torch.Generator) -> Solution:
        """The scaled polar factor, with residual, alignment, iterations and scale."""
        written = self.written(w, info, w0)
        return Solution(written.weight, written.facts)
