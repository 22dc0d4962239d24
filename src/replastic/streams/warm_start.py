"""Train on a part of the data first, then on all of it: the gap to training on all at once is the price of warmth."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from replastic.data import Dataset
from replastic.errors import UserError
from replastic.streams._growing import Growing, shuffled
from replastic.streams._stream import register


@register("warm_start", reference="https://arxiv.org/abs/1910.08475")
@dataclass(frozen=True, kw_only=True)
class WarmStart(Growing):
    """Two phases: a share of the training data that the seed decides, then all of it; scored on the test split."""

    ratio: float = 0.1
    """Share of the training data in the first phase."""
    first_epochs: int = 1000
    """Passes over that share."""
    epochs: int = 100
    """Passes over the data in the second phase."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.ratio < 1:
            raise UserError(f"ratio must lie between 0 and 1, got {self.ratio}")
        self.check_counts("first_epochs", "epochs")

    def __len__(self) -> int:
        """Two phases."""
        return 2

    def lasts(self, index: int) -> int:
        """`first_epochs`, then `epochs`."""
        return self.epochs if index else self.first_epochs

    def parts(self, train: Dataset, seed: int) -> tuple[Tensor, Tensor]:
        """A random share, and the rest."""
        count = round(self.ratio * len(train))
        if not 0 < count < len(train):
            which = "second" if count else "first"
            raise UserError(f"ratio {self.ratio} of {len(train)} images leaves an empty {which} phase")
        order = shuffled(train, "warm_start", seed=seed)
        return order[:count], order[count:]
