"""Statistics of runs x tasks: interquartile mean, probability of improvement, performance profile, with intervals.

The intervals come from the stratified bootstrap: runs are drawn anew within each game. All of it follows Agarwal et al.
(2021), https://arxiv.org/abs/2108.13264, sections 4.1 to 4.3, and gives the numbers of their library ``rliable``. Ours
differs in one point. Several tasks that one run goes through, one after the other, are drawn together: they share
their network, and are no independent draws.

Scores are arrays (runs, games, tasks): the runs of a game are others than those of the next, and each run has `tasks`
scores in its game. In ``rliable`` there is one task in a game.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from replastic.errors import UserError
from replastic.report.statistics import LEVEL, Estimate

Array = NDArray[np.float64]
DRAWS = 10_000
"""Resamples of the bootstrap."""
SEED = 0
"""Of the resamples: a second report has the same numbers."""
CHUNK = 4_000_000
"""Most numbers that are held at once."""
CUT = 0.25
"""Share of the scores that the interquartile mean leaves out at either end."""


def interquartile_mean(scores: Array) -> float:
    """Mean of the middle half of all scores, whatever their shape.

    Of k scores, the ``floor(k / 4)`` lowest and as many of the highest are left out: a 25% trimmed mean.
    """
    return float(_middle(np.ravel(scores)[None])[0])


def iqm(scores: Array, *, draws: int = DRAWS, level: float = LEVEL) -> Estimate:
    """Interquartile mean over runs, games and tasks, with its stratified bootstrap interval.

    Args:
        scores: (runs, games, tasks).
        draws: Number of resamples.
        level: Coverage.

    Raises:
        UserError: The scores have another shape, or there are none.
    """
    _check(scores)

    def resampled() -> Iterator[Array]:
        for taken in _draws(scores.shape, draws, np.random.default_rng(SEED), width=scores.size):
            yield _middle(scores[taken, np.arange(scores.shape[1])].reshape(len(taken), -1))

    return _estimate(interquartile_mean(scores), resampled, len(scores), level, np.isfinite(scores).all())


def improvement(a: Array, b: Array, *, draws: int = DRAWS, level: float = LEVEL) -> Estimate:
    """Probability that a run of `b` scores higher than one of `a` on the same task, averaged over all tasks.

    A tie counts one half: it is the Mann-Whitney share of each task. Runs of both sides are drawn anew.

    Args:
        a: (runs, games, tasks).
        b: (other runs, games, tasks); games and tasks are those of `a`.
        draws: Number of resamples.
        level: Coverage.

    Returns:
        The estimate; its `n` is the smaller number of runs.

    Raises:
        UserError: The shapes do not match, or a side has no scores.
    """
    _check(a)
    _check(b)
    if a.shape[1:] != b.shape[1:]:
        raise UserError(f"both sides need the same games and tasks, got {a.shape[1:]} and {b.shape[1:]}")
    won = (np.sign(b[None] - a[:, None]).mean(axis=-1) + 1) / 2  # (runs of a, runs of b, games)

    def resampled() -> Iterator[Array]:
        generator = np.random.default_rng(SEED)
        draw = (_draws(of.shape, draws, generator, width=a.size + b.size) for of in (a, b))
        for one, other in zip(*draw, strict=True):
            counts = _counts(one, len(a)), _counts(other, len(b))
            shares = np.einsum("rng,nmg,rmg->rg", counts[0], won, counts[1], optimize=True)
            yield shares.mean(axis=1) / (len(a) * len(b))

    finite = bool(np.isfinite(a).all() and np.isfinite(b).all())
    return _estimate(float(won.mean()) if finite else math.nan, resampled, min(len(a), len(b)), level, finite)


def profile(
    scores: Array, levels: Array, *, draws: int = DRAWS, level: float = LEVEL
) -> tuple[Array, Array | None, Array | None]:
    """The share of all runs and tasks that score above each of some levels, and the ends of its pointwise interval.

    Args:
        scores: (runs, games, tasks).
        levels: (k,) scores.
        draws: Number of resamples.
        level: Coverage of each interval.

    Returns:
        Three arrays (k,). The last two are None for one run.
    """
    _check(scores)
    above = (scores[..., None] > levels).mean(axis=2)  # (runs, games, k)
    share = np.asarray(above.mean(axis=(0, 1)), dtype=np.float64)
    if len(scores) == 1:
        return share, None, None
    generator = np.random.default_rng(SEED)
    shares = [
        np.einsum("rng,ngk->rk", _counts(taken, len(scores)), above, optimize=True) / above[..., 0].size
        for taken in _draws(scores.shape, draws, generator, width=scores.size)
    ]
    low, high = np.percentile(np.concatenate(shares), _ends(level), axis=0)
    return share, low, high


def _check(scores: Array) -> None:
    if scores.ndim != 3 or not scores.size:
        raise UserError(f"scores must be an array (runs, games, tasks) with at least one, got shape {scores.shape}")


def _middle(scores: Array) -> Array:
    """The trimmed mean of each row."""
    count = scores.shape[1]
    cut = int(CUT * count)
    return np.asarray(np.sort(scores, axis=1)[:, cut : count - cut].mean(axis=1), dtype=np.float64)


def _draws(
    shape: tuple[int, ...], draws: int, generator: np.random.Generator, *, width: int
) -> Iterator[NDArray[np.int64]]:
    """Numbers of the runs that each resample takes in each game, (resamples, runs, games), in chunks.

    `width` is how many numbers a resample holds.
    """
    runs, games, _ = shape
    size = max(1, CHUNK // width)
    for first in range(0, draws, size):
        yield generator.integers(runs, size=(min(size, draws - first), runs, games))


def _counts(taken: NDArray[np.int64], runs: int) -> Array:
    """How often each run is taken, (resamples, runs, games)."""
    return np.stack([(taken == run).sum(axis=1) for run in range(runs)], axis=1).astype(np.float64)


def _estimate(
    value: float, resampled: Callable[[], Iterator[Array]], runs: int, level: float, finite: bool | np.bool_
) -> Estimate:
    if not finite:
        return Estimate(math.nan, None, None, runs)
    if runs == 1:
        return Estimate(value, None, None, 1)
    low, high = np.percentile(np.concatenate(list(resampled())), _ends(level))
    return Estimate(value, float(low), float(high), runs)


def _ends(level: float) -> tuple[float, float]:
    return 50 * (1 - level), 50 * (1 + level)
