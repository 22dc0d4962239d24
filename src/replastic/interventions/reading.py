"""The phase's data batch by batch, pass after pass, for methods that take some of it after each update or before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from replastic.errors import UserError
from replastic.interventions.passes import in_random_order
from replastic.interventions.run import Run


class Reading:
    """Gives one batch at a time, each pass in a drawn order, from the beginning again in every phase.

    Args:
        name: Of the method, for the seeds and for messages.
        phase: The phase under way.
    """

    def __init__(self, name: str, phase: int) -> None:
        self._name = name
        self._place = [phase, 0, 0]
        self._coming: Iterator[Any] | None = None

    def next(self, run: Run) -> Any:
        """The next batch.

        Raises:
            UserError: There is no data.
        """
        if self._place[0] != run.phase:
            self._place, self._coming = [run.phase, 0, 0], None
        for _ in range(2):
            if self._coming is None:
                self._coming = self._pass(run)
            batch = next(self._coming, None)
            if batch is not None:
                self._place[2] += 1
                return batch
            self._place, self._coming = [run.phase, self._place[1] + 1, 0], None
        raise UserError(f"{self._name} needs data of the phase, but batches gave none")

    def state(self) -> Tensor:
        """The phase, the passes over its data so far, and the batches taken from the one under way."""
        return torch.tensor(self._place)

    def load(self, state: Tensor) -> None:
        """Go on from there."""
        self._place, self._coming = [int(value) for value in state], None

    def _pass(self, run: Run) -> Iterator[Any]:
        """The pass under way, from the batch on that was not taken yet."""
        assert run.batches is not None
        phase, number, taken = self._place
        coming = iter(in_random_order(run.batches(), run.seed, self._name, phase, number))
        for _ in range(taken):
            next(coming, None)
        return coming
