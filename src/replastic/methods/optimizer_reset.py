"""Optimizer reset (control): the optimizer's state is dropped, the weights stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from replastic.interventions.method import Method, register
from replastic.interventions.run import Need, Run
from replastic.weights.change import Change


@register("optimizer_reset")
@dataclass(kw_only=True)
class OptimizerReset(Method):
    """Drops the whole state of the optimizer and keeps the weights.

    Shows how much of a method's effect comes from the reset of the moments that goes with it. Has no effect where the
    run's policy is ``reset_all``. Ours, as a control.
    """

    takes_shards: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({"optimizer"})

    def on_boundary(self, run: Run) -> Change:
        """A change of nothing but the optimizer's state."""
        return Change(reset_optimizer=True)
