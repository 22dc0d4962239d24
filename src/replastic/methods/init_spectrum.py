"""Initial spectrum (control): the old singular vectors with the singular values of the initial weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from replastic.interventions.method import WeightMethod, register
from replastic.interventions.run import Need
from replastic.weights.entries import MatrixInfo


@register("init_spectrum")
@dataclass(kw_only=True)
class InitSpectrum(WeightMethod):
    """Gives each matrix U S V^T the singular values S_0 of its initial value: U S_0 V^T, in descending order.

    Keeps the singular vectors, as fire does, and restores the initial spectrum, where fire writes a flat one. Ours, as
    a control.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"init"})
    batched: ClassVar[bool] = True

    def solve(self, w: Tensor, info: MatrixInfo, w0: Tensor | None, generator: torch.Generator) -> Tensor:
        """Old vectors, initial values; computed in float64."""
        assert w0 is not None
        u, _, vh = torch.linalg.svd(w.double(), full_matrices=False)
        new: Tensor = (u * torch.linalg.svdvals(w0.double()).unsqueeze(-2)) @ vh
        return new.to(w)
