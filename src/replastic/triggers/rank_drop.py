"""Act when the rank of the features, or of the weights, has dropped."""

from __future__ import annotations

from dataclasses import dataclass

from replastic.options import option
from replastic.triggers._against_start import AgainstStart
from replastic.triggers._trigger import register


@register("rank_drop", reference="https://arxiv.org/abs/2010.14498")
@dataclass(kw_only=True, eq=False)
class RankDrop(AgainstStart):
    """Acts when enough layers have lost the share `drop` of the rank that they had at the start.

    By default it is the srank of the features; `measure=effective_rank` is the effective rank of the weights.

    Reference: Kumar et al. (2021), who watch the srank fall; the rule is ours.
    """

    measure: str = option("feature_srank", help="measure of rank, one value a layer (see `replastic list metrics`)")
    drop: float = option(0.3, help="share of the rank that is lost", above=0, below=1)

    def measures(self) -> tuple[str, ...]:
        """The option `measure`."""
        return (self.measure,)

    def is_worse(self, value: float, reference: float) -> bool:
        """Below what is left after the drop."""
        return value <= (1 - self.drop) * reference

    def worse_of(self, one: float, other: float) -> float:
        """The smaller."""
        return min(one, other)
