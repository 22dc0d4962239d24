"""Fresh: every parameter and buffer is drawn anew, as if training began with another seed."""

from __future__ import annotations

from dataclasses import dataclass

from replastic.interventions.method import register
from replastic.interventions.redrawn import Redrawn


@register("fresh")
@dataclass(kw_only=True)
class Fresh(Redrawn):
    """Puts a new random draw in place of every trainable parameter and every buffer.

    Like `full_reset`, with a different draw at every boundary: the run's seed and the phase decide it.
    """
