"""What a plot needs of the records: one mean curve per method with its interval, over phases or over updates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from replastic.records import Record
from replastic.report.experiment import Array, Experiment
from replastic.report.statistics import mean_interval

EVENTS = ("before_boundary", "boundary", "evaluation", "phase_end")


@dataclass(frozen=True)
class Series:
    """One curve: `low` and `high` are its 95% t interval at each point, NaN where one seed has no interval."""

    method: str
    x: Array
    mean: Array
    low: Array
    high: Array
    values: Array
    """(seeds, points): what the mean was taken of."""

    def every(self, stride: int) -> Series:
        """Each `stride`-th point, the last one always."""
        kept = [*range(0, len(self.x) - 1, stride), len(self.x) - 1]
        points = (self.x[kept], self.mean[kept], self.low[kept], self.high[kept], self.values[:, kept])
        return Series(self.method, *points)

    def geometric(self) -> Series:
        """The same values with their geometric mean and the interval of their logarithms, for a logarithmic axis."""
        logs = _series(self.method, self.x, np.log(self.values))
        return replace(self, mean=np.exp(logs.mean), low=np.exp(logs.low), high=np.exp(logs.high))


def over_phases(experiment: Experiment, key: str, event: str | None = None) -> list[Series]:
    """One series per method over the phases, counted from 1; phases without the measure are left out."""
    found = []
    for method in experiment.methods:
        values = experiment.over_phases(method, key, event)
        there = ~np.isnan(values).all(axis=0)
        if there.any():
            found.append(_series(method, (np.flatnonzero(there) + 1).astype(np.float64), values[:, there]))
    return found


def over_updates(experiment: Experiment, key: str) -> list[Series]:
    """One series per method over optimizer updates, from the evaluations inside the phases; empty without any.

    Only updates at which every seed of the method was evaluated are kept.
    """
    if key not in experiment.keys("evaluation"):
        return []
    found = []
    for method in experiment.methods:
        runs = [_points(run.records, key, experiment.phases) for run in experiment.runs[method].values()]
        common = sorted(set.intersection(*(set(points) for points in runs)))
        if common:
            values = np.array([[points[step] for step in common] for points in runs], dtype=np.float64)
            found.append(_series(method, np.array(common, dtype=np.float64), values))
    return found


def events_of(experiment: Experiment, key: str) -> list[str]:
    """The events at which a measure was recorded in the common phases: the score's own first, then in order of time."""
    own = experiment.shown.event
    events = [own, *(event for event in EVENTS if event not in (own, "evaluation"))]
    return [event for event in events if key in experiment.keys(event)]


def _points(records: Sequence[Record], key: str, phases: int) -> dict[int, float]:
    events = ("evaluation", "phase_end")
    return {r["step"]: float(r[key]) for r in records if r["event"] in events and key in r and r["phase"] < phases}


def _series(method: str, x: Array, values: Array) -> Series:
    estimates = [mean_interval(column[~np.isnan(column)]) for column in values.T]
    low, high = (
        np.array([np.nan if bound is None else bound for bound in bounds], dtype=np.float64)
        for bounds in ([e.low for e in estimates], [e.high for e in estimates])
    )
    return Series(method, x, np.array([e.mean for e in estimates]), low, high, values)
