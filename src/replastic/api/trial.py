"""The result of a trial: losses of a copy and of a fresh network, and a comparison in words."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from replastic.probes.trainee import share_removed

LAGS = (0.2, 0.5, 0.8)
"""Values of `Course.lag` that `Course.state` tells apart (ours)."""
KEEPS_UP = 0.8
"""A network keeps up that removes at least this share of its own loss, as a part of what a fresh one does (ours)."""


@dataclass(frozen=True)
class Course:
    """Losses before and after the steps, of the copy and of the fresh network, on the same data."""

    data: str
    before: float
    after: float
    fresh_before: float
    fresh_after: float

    @property
    def lag(self) -> float:
        """0 where the copy ends as low as the fresh network or lower, 1 where it ends where the fresh one began."""
        gained = self.fresh_before - self.fresh_after
        if not math.isfinite(self.after):
            return math.inf
        return max(0.0, (self.after - self.fresh_after) / gained) if gained > 0 else 0.0

    @property
    def removed(self) -> float:
        """The share of its loss that the copy removes; 0 where it removes none."""
        return share_removed(self.before, self.after)

    @property
    def fresh_removed(self) -> float:
        """The share of its loss that the fresh network removes."""
        return share_removed(self.fresh_before, self.fresh_after)

    @property
    def tells(self) -> bool:
        """Whether the fresh network learned anything to compare with."""
        gained = self.fresh_before - self.fresh_after
        return math.isfinite(self.fresh_after) and gained > 0.05 * abs(self.fresh_before)

    @property
    def state(self) -> str:
        """``lost``, ``slower`` or ``sound``; ``unknown`` if the fresh network did not learn either.

        A copy that begins with a large loss, as it must unlearn first, may lag a while although it learns as fast.
        """
        if not self.tells:
            return "unknown"
        low, middle, high = LAGS
        keeps_up = self.removed >= KEEPS_UP * self.fresh_removed
        if self.lag >= high or (self.lag >= middle and not keeps_up):
            return "lost"
        return "slower" if self.lag >= middle or (self.lag >= low and not keeps_up) else "sound"

    @property
    def words(self) -> str:
        """The comparison in a clause."""
        mine, fresh = (f"{a:.3g} to {b:.3g}" for a, b in _pairs(self))
        if not self.tells:
            return f"{self.data} tell nothing, as a fresh network does not learn it in these steps either ({fresh})"
        if min(self.before, self.after, self.fresh_before, self.fresh_after) < 0 or not math.isfinite(self.after):
            return f"on {self.data} its loss goes from {mine}, that of a fresh network from {fresh}"
        return (
            f"on {self.data} it removes {self.removed:.0%} of the loss ({mine}) where a fresh one removes "
            f"{self.fresh_removed:.0%} ({fresh})"
        )


def _pairs(course: Course) -> tuple[tuple[float, float], tuple[float, float]]:
    return (course.before, course.after), (course.fresh_before, course.fresh_after)


@dataclass(frozen=True)
class Trial:
    """The result of training a copy and a fresh network side by side."""

    steps: int
    optimizer: str
    courses: tuple[Course, ...]
    seconds: float
    notes: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        """The worst state of the courses that tell something; ``unknown`` if none does."""
        found = {course.state for course in self.courses}
        return next((state for state in ("lost", "slower", "sound") if state in found), "unknown")

    @property
    def words(self) -> str:
        """All comparisons in one sentence, without its full stop."""
        return f"in {self.steps} steps of {self.optimizer}, " + "; ".join(course.words for course in self.courses)

    def to_dict(self) -> dict[str, Any]:
        """All numbers and the words."""
        courses = [asdict(c) | {k: getattr(c, k) for k in ("removed", "fresh_removed", "lag")} for c in self.courses]
        return asdict(self) | {"courses": courses, "state": self.state, "words": self.words}
