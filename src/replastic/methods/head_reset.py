"""Head reset (control): the output layer goes back to its initial value, the rest stays."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from replastic.errors import UserError
from replastic.interventions.method import Scope, WeightMethod, register
from replastic.interventions.run import Need, Run
from replastic.weights.entries import MatrixInfo
from replastic.weights.naming import in_head


@register("head_reset")
@dataclass(kw_only=True)
class HeadReset(WeightMethod):
    """Puts the weights and biases of the head (by their names) back to their stored initial values.

    Shows how much of a method's effect comes from its treatment of the last layer. Where the names do not tell, choose
    the layers with `target_modules`. Ours, as a control; with an encoder interpolated, the DQN baseline of FIRE (Han
    et al., 2026).
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"init"})
    scope: ClassVar[Scope] = "parameters"

    def narrowed(self, run: Run) -> Run:
        """The head's tensors as targets."""
        if run.target_modules is not None:
            return run
        names = [e.name for e in run.store.entries() if e.role == "head" or in_head(e.name)]
        if not names:
            raise UserError("head_reset found no head by its name; say which layers with target_modules")
        return replace(run, target_modules=names)

    def solve(self, w: Tensor, info: MatrixInfo, w0: Tensor | None, generator: torch.Generator) -> Tensor:
        """The initial value."""
        assert w0 is not None
        return w0
