"""Kept optimizer (control): the optimizer's state outlives boundaries, whatever the run's policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from replastic.interventions.method import Method, register
from replastic.weights.optimizer_state import Policy


@register("keep_optimizer")
@dataclass(kw_only=True)
class KeepOptimizer(Method):
    """Keeps the optimizer's state at every boundary, also of weights that another method rewrites.

    Where the run's policy drops it for every method alike (``reset_all``), ``keep_optimizer`` is `base` without that
    and ``keep_optimizer+fire`` is `fire` without it: columns of a table that otherwise treats all alike. Has no effect
    where the policy is ``keep``. Ours, as a control.
    """

    takes_shards: ClassVar[bool] = True
    policy: ClassVar[Policy | None] = "keep"
