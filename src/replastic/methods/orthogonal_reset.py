"""Orthogonal reset (control): a fresh orthogonal initialisation, as `torch.nn.init.orthogonal_` makes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from replastic.interventions.draws import haar
from replastic.interventions.kernels import joined_taps, split_taps
from replastic.interventions.method import WeightMethod, register
from replastic.options import option
from replastic.weights.entries import MatrixInfo


@register("orthogonal_reset", reference="https://arxiv.org/abs/1312.6120")
@dataclass(kw_only=True)
class OrthogonalReset(WeightMethod):
    """Puts a new orthogonal initialisation, gain x a random orthonormal matrix, in place of each weight.

    Nothing of the old weight is kept, not even its scale. Differs from `random_isometry` in two ways: the kernel of a
    convolution is one matrix, C_out x (C_in kh kw), whose rows are orthonormal together, so that a single tap is no
    isometry; and the factor is `gain`, whatever the layer's fans, where `random_isometry` uses fire's scale.

    Reference: Saxe et al. (2014), section 3; the flattening is that of `torch.nn.init.orthogonal_`.
    """

    draws: ClassVar[bool] = True

    gain: float = option(1.0, help="factor on the orthonormal matrix; 1.414 is torch's for ReLU", above=0)

    def solve(self, w: Tensor, info: MatrixInfo, w0: Tensor | None, generator: torch.Generator) -> Tensor:
        """The new weights; groups of a convolution are drawn on their own."""
        return split_taps(self.gain * haar(joined_taps(w, info).shape, generator, w), info)
