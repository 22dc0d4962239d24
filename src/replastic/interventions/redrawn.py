"""Base of the methods that put a new random draw of the network in place of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from replastic.interventions.draws import drawn
from replastic.interventions.method import Scope, WeightMethod
from replastic.interventions.run import Need, Run
from replastic.weights.entries import MatrixInfo


@dataclass(kw_only=True)
class Redrawn(WeightMethod):
    """Puts the value of a new draw in place of every chosen parameter and buffer."""

    needs: ClassVar[frozenset[Need]] = frozenset({"fresh"})
    draws: ClassVar[bool] = True
    scope: ClassVar[Scope] = "state"

    def reference(self, run: Run) -> Mapping[str, Tensor]:
        """The new draw."""
        return drawn(run)

    def solve(self, w: Tensor, info: MatrixInfo, w0: Tensor | None, generator: torch.Generator) -> Tensor:
        """The new value."""
        assert w0 is not None
        return w0
