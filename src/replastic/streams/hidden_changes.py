"""The tasks of another stream, each for a random time, and nobody is told when one ends."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from replastic.data import Splits
from replastic.errors import UserError
from replastic.options import option, read
from replastic.seeds import generator
from replastic.streams._stream import Phase, Stream, get, register


@register("hidden_changes")
@dataclass(frozen=True, kw_only=True)
class HiddenChanges(Stream):
    """Each task lasts a number of updates that the seed draws evenly from `shortest` to `longest`. Ours.

    The phases are those of the other stream, so that records are written at every change; `Phase.announced` is False,
    so that no trigger is told of one. A method without a trigger acts at every change all the same, as if it knew:
    the bound for what a trigger can find. Train with a constant step size and without warm-up: a schedule begins anew
    with every phase and would tell.
    """

    changes: str = option("random_labels", help="stream whose tasks come, or name:field=value,field=value")
    shortest: int = option(100, help="fewest updates of a task", low=1)
    longest: int = option(500, help="most updates of a task", low=1)

    def validate(self) -> None:
        """The range must not be empty, and the other stream must be another."""
        if self.shortest > self.longest:
            raise UserError(f"hidden_changes: shortest must be at most longest, got {self.shortest} and {self.longest}")
        if isinstance(self._tasks(), HiddenChanges):
            raise UserError(f"hidden_changes cannot take its tasks from itself, got changes={self.changes!r}")

    def __len__(self) -> int:
        """As many phases as the other stream has."""
        return len(self._tasks())

    def phase(self, splits: Splits, index: int, seed: int) -> Phase:
        """Task `index` of the other stream, for the time that the seed drew."""
        found = self._tasks().phase(splits, index, seed)
        draw = generator(seed, "hidden_changes", index)
        steps = int(torch.randint(self.shortest, self.longest + 1, (), generator=draw))
        return replace(found, steps=steps, epochs=None, announced=False)

    def _tasks(self) -> Stream:
        kind, given = read(self.changes, get)
        return kind(**given)
