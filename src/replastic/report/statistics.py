"""Statistics of a handful of seeds: t intervals, paired differences, the probability of an improvement."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from replastic.errors import UserError
from replastic.extras import require

LEVEL = 0.95
"""Coverage of every interval that is computed and shown."""
PERCENT = f"{LEVEL:.0%}"
INTERVAL = f"{PERCENT} interval"
"""Name of the interval in tables, plots and sentences."""
Verdict = Literal["higher", "lower", "not settled", "one seed", "not finite"]
Standing = Literal["better", "worse", "not settled", "one seed", "not finite"]


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval. `low` and `high` are None for one value, or values that are not all finite."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def verdict(self) -> Verdict:
        """Whether the interval excludes zero, and the side on which it lies."""
        if not math.isfinite(self.mean):
            return "not finite"
        if self.low is None or self.high is None:
            return "one seed"
        if self.low > 0:
            return "higher"
        return "lower" if self.high < 0 else "not settled"

    def standing(self, higher_is_better: bool) -> Standing:
        """The verdict on a difference of scores: better, worse, or the reason why it is neither."""
        verdict = self.verdict
        if verdict == "higher":
            return "better" if higher_is_better else "worse"
        if verdict == "lower":
            return "worse" if higher_is_better else "better"
        return verdict


def mean_interval(values: ArrayLike, level: float = LEVEL) -> Estimate:
    """Mean and two-sided t interval, mean +- t(n - 1) s / sqrt(n).

    One value has no spread, so it gets no interval. Values that are not all finite get none, either.

    Args:
        values: (n,) one number per seed, taken as independent draws.
        level: Coverage under normality.

    Raises:
        UserError: There are no values, or `level` is not between 0 and 1.
    """
    x = np.asarray(values, dtype=np.float64).ravel()
    if x.size == 0:
        raise UserError("an estimate needs at least one value, got none")
    if not 0 < level < 1:
        raise UserError(f"level must lie between 0 and 1, got {level}")
    if not np.isfinite(x).all():
        return Estimate(math.nan, None, None, x.size)
    mean = float(x.mean())
    if x.size == 1:
        return Estimate(mean, None, None, 1)
    student = require("scipy.stats", "report", "an interval over seeds").t
    half = float(student.ppf(0.5 + level / 2, x.size - 1) * x.std(ddof=1) / math.sqrt(x.size))
    return Estimate(mean, mean - half, mean + half, x.size)


def paired_difference(
    values: Mapping[int, float], reference: Mapping[int, float], level: float = LEVEL
) -> Estimate | None:
    """`values` minus `reference` over the seeds that both have, with the t interval of the differences.

    Runs of one seed share their data order, initial weights and first phase, so the effect of a seed on both cancels.

    Returns:
        The estimate, or None if there is no common seed.
    """
    common = sorted(values.keys() & reference.keys())
    if not common:
        return None
    return mean_interval([values[seed] - reference[seed] for seed in common], level)


def probability_of_improvement(a: ArrayLike, b: ArrayLike) -> float:
    """Probability that a run of `b` scores higher than a run of `a`, over all pairs of them; a tie counts one half.

    The Mann-Whitney share (Agarwal et al. 2021, https://arxiv.org/abs/2108.13264, section 4.3, for one task).

    Args:
        a: (n,) scores over seeds.
        b: (m,) scores over seeds, which need not match those of `a`.

    Raises:
        UserError: A side has no scores.
    """
    x: NDArray[np.float64] = np.asarray(a, dtype=np.float64).ravel()
    y: NDArray[np.float64] = np.asarray(b, dtype=np.float64).ravel()
    if not x.size or not y.size:
        raise UserError(f"both sides need at least one score, got {x.size} and {y.size}")
    order = np.sign(y[None, :] - x[:, None])
    return float((order + 1).mean() / 2)
