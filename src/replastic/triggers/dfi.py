"""Act when the weights have gone far from isometry, each measured against itself at initialisation."""

from __future__ import annotations

from dataclasses import dataclass

from replastic.options import option
from replastic.triggers._against_start import AgainstStart
from replastic.triggers._trigger import register


@register("dfi", reference="https://arxiv.org/abs/2602.08040")
@dataclass(kw_only=True, eq=False)
class Dfi(AgainstStart):
    """Acts when the DfI of enough layers has grown to `growth` times what it was at initialisation.

    The limit of corollary 2 (DfI < 0.9975) is none for acting: the default initialisation of a 256 x 256 layer has a
    DfI of about 142. `replastic theory` shows it as a diagnostic. A layer that began below `floor`, as an orthogonal
    one does, counts as if it had begun there: up to a DfI of 1 the theorems make promises.

    Reference: FIRE (Han et al., ICLR 2026), section 3, for the measure; the rule is ours.
    """

    growth: float = option(
        4.0, help="DfI at which it acts, as a multiple of the layer's own at initialisation", above=1
    )
    floor: float = option(1.0, help="least DfI that a layer is taken to have begun with", above=0)

    def measures(self) -> tuple[str, ...]:
        """The paper's measure, on the raw weights."""
        return ("dfi",)

    def is_worse(self, value: float, reference: float) -> bool:
        """Beyond its growth."""
        return value >= self.growth * max(reference, self.floor)

    def worse_of(self, one: float, other: float) -> float:
        """The larger."""
        return max(one, other)
