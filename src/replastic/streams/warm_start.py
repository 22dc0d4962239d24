"""Train on a part of the data first, then on all of it: the gap to training on all at once is the price of warmth."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from replastic.data import Splits
from replastic.errors import UserError
from replastic.seeds import generator
from replastic.streams._registry import register
from replastic.streams._stream import Phase, Stream


@register("warm_start", reference="https://arxiv.org/abs/1910.08475")
@dataclass(frozen=True, kw_only=True)
class WarmStart(Stream):
    """Two phases: a share of the training data, then all of it; scored on the test split."""

    ratio: float = 0.1
    """Share of the training data in the first phase."""
    first_epochs: int = 1000
    """Passes over that share."""
    epochs: int = 100
    """Passes over everything in the second phase."""

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise UserError(f"ratio must lie between 0 and 1, got {self.ratio}")
        for name in ("first_epochs", "epochs"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be 1 or more, got {getattr(self, name)}")

    def __len__(self) -> int:
        """Two phases."""
        return 2

    def phase(self, splits: Splits, index: int, seed: int) -> Phase:
        """Phase 0 is a random part of the training data that the seed decides, phase 1 all of it."""
        train = splits.train
        if index == 0:
            count = round(self.ratio * len(train))
            if not count:
                raise UserError(f"ratio {self.ratio} of {len(train)} images leaves an empty first phase")
            order = torch.randperm(len(train), generator=generator(seed, "warm_start"))
            train = train.take(order[:count])
        # The held-out score is recorded for searches; tables report the test split.
        scored = {"": splits.test, "held_out": splits.held_out}
        return Phase(index, train, scored, epochs=self.epochs if index else self.first_epochs)
