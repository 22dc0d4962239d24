"""A method of your own, in one file outside the package: clip the largest singular values of every matrix."""

from dataclasses import dataclass

import torch
from torch import Tensor

from replastic import methods
from replastic.methods import Solution, WeightMethod, option
from replastic.weights.entries import MatrixInfo


@methods.register("clip_spectrum", reference="https://example.org/where-it-is-described")
@dataclass(kw_only=True)
class ClipSpectrum(WeightMethod):
    """Singular values above `ratio` times the median of their matrix become that; every direction stays."""

    batched = True

    ratio: float = option(2.0, help="largest singular value allowed, as a multiple of the median", low=1)

    def solve(self, w: Tensor, info: MatrixInfo, w0: Tensor | None, generator: torch.Generator) -> Solution:
        """Clip the matrices of one batch, (batch, d_out, d_in), and tell how many values were clipped in each."""
        u, s, vh = torch.linalg.svd(w, full_matrices=False)
        limit = self.ratio * s.median(dim=-1, keepdim=True).values
        return Solution((u * s.clamp(max=limit).unsqueeze(-2)) @ vh, {"clipped": (s > limit).sum(-1).float()})
