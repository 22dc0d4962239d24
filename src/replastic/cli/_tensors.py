"""Progress over the tensors of a checkpoint: a bar on a terminal, elsewhere a plain line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import TypeVar

from tqdm import tqdm

from replastic.text import duration
from replastic.weights.change import Proposal, Proposals

T = TypeVar("T")
SECONDS = 30.0
"""Between two plain lines, where the standard error is no terminal."""


def watched(items: Iterable[T]) -> Iterator[T]:
    """The items one by one, with their progress on the standard error.

    The time that is left is told by the costs of the items, if they are `Proposals`, else by their number.
    """
    costs: Mapping[str, float] = items.costs if isinstance(items, Proposals) else {}
    with _Watch(len(items) if isinstance(items, Sized) else 0, sum(costs.values())) as watch:
        for item in items:
            if isinstance(item, Proposal):
                watch.passed(costs.get(item.name, 0), known=item.kept)
            else:
                watch.passed(1)
            yield item
            del item  # else it would stay in memory while the next one is made


class _Watch:
    """Counts items, and shows how far they have come."""

    def __init__(self, count: int, cost: float) -> None:
        self.count, self.cost = count, cost or count
        self.number = 0
        self.spent = self.known = 0.0
        self.began = self.told = time.monotonic()
        self.terminal = sys.stderr.isatty()
        self.bar = tqdm(
            total=self.cost,
            disable=not self.terminal,
            leave=False,
            bar_format="{percentage:3.0f}%|{bar}| {desc}",
            dynamic_ncols=True,
        )

    def __enter__(self) -> _Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def passed(self, cost: float, *, known: bool = False) -> None:
        """An item has come; it took no time if it was `known` from an earlier call."""
        self.number += 1
        if known:
            self.known += cost
            self.began = self.began if self.spent else time.monotonic()
        else:
            self.spent += cost
        if self.terminal:
            self.bar.set_description_str(self._words(), refresh=False)
            self.bar.update(cost)
        elif time.monotonic() - self.told >= SECONDS:
            self.told = time.monotonic()
            print(self._words(), file=sys.stderr, flush=True)

    def _words(self) -> str:
        done = f"{self.number} of {self.count} tensors" if self.count else f"{self.number} tensors"
        passed, left = time.monotonic() - self.began, self.cost - self.known - self.spent
        if not self.spent or left <= 0:
            return done
        return f"{done}, about {duration(left / self.spent * passed)} left"
