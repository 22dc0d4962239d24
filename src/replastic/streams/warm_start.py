"""Train on a part of the data first, then on all of it; a new network trained on all of it shows what that costs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from replastic.data import Dataset
from replastic.errors import UserError
from replastic.options import option
from replastic.streams._growing import Growing, shuffled
from replastic.streams._stream import register


@register("warm_start", reference="https://arxiv.org/abs/1910.08475")
@dataclass(frozen=True, kw_only=True)
class WarmStart(Growing):
    """Two phases: a share of the training data that the seed decides, then all of it; scored on the test split."""

    ratio: float = option(0.1, help="share of the training data in the first phase", above=0, below=1)
    first_epochs: int = option(1000, help="passes over that share", low=1)
    epochs: int = option(100, help="passes over the data in the second phase", low=1)

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
