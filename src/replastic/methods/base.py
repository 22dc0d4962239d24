"""Base: keeps the weights; what every other method is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from replastic.interventions.method import Method, register
from replastic.interventions.run import Run
from replastic.weights.change import Change


@register("base")
@dataclass(kw_only=True)
class Base(Method):
    """Keeps the weights as training left them."""

    takes_shards: ClassVar[bool] = True
    inert: ClassVar[bool] = True

    def on_boundary(self, run: Run) -> Change:
        """An empty change: a boundary like any other, at which nothing is rewritten."""
        return Change()
