"""Statistics of a handful of seeds: t intervals, paired differences, and robust aggregates over several tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from replastic.errors import UserError
from replastic.extras import require

LEVEL = 0.95
Verdict = Literal["higher", "lower", "not settled", "one seed", "not finite"]
Standing = Literal["better", "worse", "not settled", "one seed", "not finite"]


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval; `low` and `high` are None where none can be given (one value, or values not finite)."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def verdict(self) -> Verdict:
        """Whether the interval excludes zero, and on which side."""
        if not math.isfinite(self.mean):
            return "not finite"
        if self.low is None or self.high is None:
            return "one seed"
        if self.low > 0:
            return "higher"
        return "lower" if self.high < 0 else "not settled"

    def standing(self, higher_is_better: bool) -> Standing:
        """The verdict of a difference of scores, by what it means: better, worse, or why neither can be said."""
        verdict = self.verdict
        if verdict == "higher":
            return "better" if higher_is_better else "worse"
        if verdict == "lower":
            return "worse" if higher_is_better else "better"
        return verdict


def mean_interval(values: ArrayLike, level: float = LEVEL) -> Estimate:
    """Mean and two-sided t interval, mean +- t(n - 1) s / sqrt(n).

    One value has no spread, so it gets no interval; neither do values that are not all finite.

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

    Runs of one seed share their data order, initial weights and first phase, so what the seeds have in common cancels.

    Returns:
        None when no seed is common.
    """
    common = sorted(values.keys() & reference.keys())
    if not common:
        return None
    return mean_interval([values[seed] - reference[seed] for seed in common], level)


def interquartile_mean(scores: ArrayLike) -> float:
    """Mean of the middle half of all values (Agarwal et al. 2021, https://arxiv.org/abs/2108.13264, section 4.3)."""
    stats = require("scipy.stats", "report", "the interquartile mean")
    return float(stats.trim_mean(np.asarray(scores, dtype=np.float64), 0.25, axis=None))


def interquartile_mean_interval(
    tasks: Sequence[ArrayLike], *, generator: np.random.Generator, level: float = LEVEL, resamples: int = 2000
) -> Estimate:
    """Interquartile mean over several tasks with its stratified bootstrap interval (percentiles).

    Every resample draws, within each task, as many seeds as the task has, with replacement: the tasks are fixed, the
    seeds are chance.

    Args:
        tasks: One array of scores over seeds per task, on a common scale.
        generator: Source of the resamples.
        level: Coverage.
        resamples: Bootstrap draws.

    Raises:
        UserError: No task, or a task without scores.
    """
    arrays = [np.asarray(task, dtype=np.float64).ravel() for task in tasks]
    if not arrays or any(a.size == 0 for a in arrays):
        raise UserError("the interquartile mean needs at least one task, each with at least one score")
    count = sum(a.size for a in arrays)
    centre = interquartile_mean(np.concatenate(arrays))
    if all(a.size == 1 for a in arrays):
        return Estimate(centre, None, None, count)
    draws = np.concatenate([generator.choice(a, size=(resamples, a.size)) for a in arrays], axis=1)
    stats = require("scipy.stats", "report", "the interquartile mean")
    low, high = np.quantile(stats.trim_mean(draws, 0.25, axis=1), [0.5 - level / 2, 0.5 + level / 2])
    return Estimate(centre, float(low), float(high), count)


def probability_of_improvement(a: Sequence[ArrayLike], b: Sequence[ArrayLike]) -> float:
    """Probability that a run of `b` scores higher than a run of `a` on a task drawn at random; a tie counts one half.

    Args:
        a: Scores over seeds, one array per task.
        b: The same tasks in the same order; seeds need not match.

    Raises:
        UserError: The number of tasks differs or is zero, or a task has no scores.
    """
    if len(a) != len(b) or not a:
        raise UserError(f"both sides need the same tasks, at least one; got {len(a)} and {len(b)}")
    return float(np.mean([_share_of_wins(x, y) for x, y in zip(a, b, strict=True)]))


def _share_of_wins(a: ArrayLike, b: ArrayLike) -> float:
    x: NDArray[np.float64] = np.asarray(a, dtype=np.float64).ravel()
    y: NDArray[np.float64] = np.asarray(b, dtype=np.float64).ravel()
    if not x.size or not y.size:
        raise UserError("every task needs at least one score on both sides")
    order = np.sign(y[None, :] - x[:, None])
    return float((order + 1).mean() / 2)
