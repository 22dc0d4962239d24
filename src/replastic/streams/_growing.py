"""Streams whose phases bring new training data, one part after another, and keep the older parts or drop them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from replastic.data import Dataset, Splits
from replastic.errors import UserError
from replastic.options import option
from replastic.seeds import generator
from replastic.streams._stream import Phase, Stream

Access = Literal["full", "limited"]


@dataclass(frozen=True, kw_only=True)
class Growing(Stream):
    """Each phase brings a part of the training data that no other brings; all parts together are all of it.

    The FIRE paper keeps all past data (``access="full"``); limited access is ours.
    """

    access: Access = option(
        "full", help="data of earlier phases: all kept (full), or gone but for the replay (limited)"
    )
    replay: float = option(
        0.0,
        help="with limited access: share of all past images shown beside the new ones, drawn anew in each phase",
        low=0,
        high=1,
    )

    def validate(self) -> None:
        """A replay needs limited access."""
        if self.replay and self.access == "full":
            raise UserError(
                f"{self.name}: replay {self.replay} has no effect where all past data is kept; give --access limited"
            )

    @abstractmethod
    def parts(self, train: Dataset, seed: int) -> Sequence[Tensor]:
        """Indices of the training samples that each phase brings, in the order in which it shows them.

        Raises:
            UserError: The settings do not fit the data.
        """

    @abstractmethod
    def lasts(self, index: int) -> int:
        """Passes over the data in phase `index`."""

    def scored(self, splits: Splits, index: int, seed: int) -> Mapping[str, Dataset]:
        """The data that score the network in phase `index`."""
        return scores(splits.test, splits.held_out)

    def phase(self, splits: Splits, index: int, seed: int) -> Phase:
        """The part that phase `index` brings, and what `access` and `replay` leave of those before it.

        Where old and new come together, they stand in the order of the training data.
        """
        parts = self.parts(splits.train, seed)
        new, past = parts[index], torch.cat([parts[0][:0], *parts[:index]])
        if self.access == "limited":
            count = round(self.replay * len(past))
            order = torch.randperm(len(past), generator=generator(seed, "replay", index))
            past = past[order[:count]]
        there = torch.cat([past, new]).sort().values if len(past) else new
        train = splits.train if len(there) == len(splits.train) else splits.train.take(there)
        return Phase(index, train, self.scored(splits, index, seed), epochs=self.lasts(index))


def scores(test: Dataset, held_out: Dataset) -> dict[str, Dataset]:
    """The evaluation sets of a phase: tables report the test, searches see the held-out part, if there is one."""
    if not len(test):
        raise UserError("no test image is left to score; use more of the test split (data field `test`)")
    return {"": test, "held_out": held_out} if len(held_out) else {"": test}


def shuffled(train: Dataset, *purpose: str, seed: int) -> Tensor:
    """All indices of the training data in an order that the seed decides."""
    return torch.randperm(len(train), generator=generator(seed, *purpose))
