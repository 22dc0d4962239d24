"""Streams that show the same samples in every task, each time changed in another way."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch

from replastic.data import Dataset, Splits
from replastic.options import option
from replastic.seeds import generator
from replastic.streams._growing import scores
from replastic.streams._stream import Phase, Stream

ScoredOn = Literal["test", "train"]


@dataclass(frozen=True, kw_only=True)
class Repeated(Stream):
    """All samples in every task, changed by a rule that the seed and the number of the task decide.

    The first task is changed too, so that no task differs from the others. Training, held-out and test samples of a
    task are changed by the same rule.
    """

    tasks: int = option(30, help="number of tasks", low=1)
    steps: int = option(300, help="optimizer updates per task", low=1)
    scored_on: ScoredOn = option(
        "test", help="samples that give the score: the test split, or the training data (how well they are memorised)"
    )

    def __len__(self) -> int:
        """One phase per task."""
        return self.tasks

    @abstractmethod
    def changed(self, data: Dataset, draw: torch.Generator) -> Dataset:
        """The samples as one task shows them; equal draws change all splits by one rule."""

    def phase(self, splits: Splits, index: int, seed: int) -> Phase:
        """Task `index`: its rule depends on the seed and the index alone.

        Where the training data give the score, the test split is scored as ``test``.
        """
        train, held_out, test = (
            self.changed(part, generator(seed, self.name, index))
            for part in (splits.train, splits.held_out, splits.test)
        )
        scored = scores(test, held_out)
        if self.scored_on == "train":
            scored = {"": train, "test": test}
        return Phase(index, train, scored, steps=self.steps)
