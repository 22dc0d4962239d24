"""Head reset (control): the output layer goes back to its initial value, the rest stays."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from replastic.interventions.aim import last_layers
from replastic.interventions.method import Scope, WeightMethod, register
from replastic.interventions.run import Need, Run
from replastic.weights.entries import MatrixInfo


@register("head_reset")
@dataclass(kw_only=True)
class HeadReset(WeightMethod):
    """Puts the weights and biases of the output layer back to their stored initial values.

    Shows how much of a method's effect comes from its treatment of the last layer. `target_modules` chooses other
    layers. Ours, as a control; with an encoder interpolated, the DQN baseline of FIRE (Han et al., 2026). `layer_reset`
    draws layers anew instead.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"init"})
    scope: ClassVar[Scope] = "parameters"

    def narrowed(self, run: Run) -> Run:
        """The head's tensors as targets."""
        if run.target_modules is not None:
            return run
        return replace(run, target_modules=last_layers(self.name, run))

    def solve(self, w: Tensor, info: MatrixInfo, w0: Tensor | None, generator: torch.Generator) -> Tensor:
        """The initial value."""
        assert w0 is not None
        return w0
