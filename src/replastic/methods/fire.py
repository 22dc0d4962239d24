"""Fire: every weight matrix becomes the nearest orthonormal one, scaled; the least change that restores isometry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from replastic import linalg
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

    def takes_gram(self, info: MatrixInfo) -> bool:
        """With the exact solver and a scale that the shape decides."""
        return self.solver == "exact" and self.scale in linalg.SHAPE_SCALES

    def from_gram(self, root: linalg.GramRoot, info: MatrixInfo) -> tuple[float, Mapping[str, Any]]:
        """The same scale and facts as in `solve`."""
        shape = torch.empty(()).expand(1, info.d_out, info.d_in)
        scale = float(linalg.scale_factor(self.scale, shape, shape, taps=info.taps))
        facts = {"residual": root.residual, "alignment": root.alignment, "scale": scale}
        return scale, {"solver": self.solver, "iterations": 0, **facts}
