"""Interpolation: every parameter moves part of the way back to its initial value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from replastic.interventions.draws import drawn
from replastic.interventions.method import Scope, WeightMethod, register
from replastic.interventions.run import Need, Run
from replastic.options import option
from replastic.weights.entries import MatrixInfo


@register("interpolation", reference="https://arxiv.org/abs/2602.08040")
@dataclass(kw_only=True)
class Interpolation(WeightMethod):
    """Moves all trainable parameters part of the way back: theta <- (1 - strength) theta + strength theta_0.

    Reference: the baseline that FIRE (Han et al., ICLR 2026) calls S&P, after Lee et al. (2024); strengths .2 to .8
    were searched, .8 chosen in all vision settings. Their SAC runs pull toward a fresh draw (``toward="fresh"``).
    Drawing noise instead is `shrink_perturb`.
    """

    scope: ClassVar[Scope] = "parameters"

    strength: float = option(
        0.8,
        help="how far to go: 0 keeps the weights, 1 gives the initial ones",
        low=0,
        high=1,
        search=(0.2, 0.4, 0.6, 0.8),
    )
    toward: str = option(
        "init", help="theta_0: the stored initial weights, or a new draw at every boundary", choices=("init", "fresh")
    )

    def required(self) -> frozenset[Need]:
        """The initial weights, or a new draw."""
        return frozenset({"init"} if self.toward == "init" else {"fresh"})

    def reference(self, run: Run) -> Mapping[str, Tensor] | None:
        """The new draw, where `toward` asks for it."""
        return drawn(run) if self.toward == "fresh" else None

    def solve(self, w: Tensor, info: MatrixInfo, w0: Tensor | None, generator: torch.Generator) -> Tensor:
        """The mixture of the old value and the one it is pulled toward."""
        assert w0 is not None
        return torch.lerp(w, w0, self.strength)
