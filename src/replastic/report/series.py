"""Curves from records: one mean curve per method with its interval, over phases or over updates."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from replastic.records import Event
from replastic.report.experiment import Array, Experiment, points
from replastic.report.statistics import mean_interval


@dataclass(frozen=True)
class Series:
    """One curve. `low` and `high` are its t interval at each point, NaN where there is one seed alone."""

    method: str
    x: Array
    mean: Array
    low: Array
    high: Array
    values: Array
    """(seeds, points): the values behind the mean."""

    def every(self, stride: int) -> Series:
        """Every `stride`-th point, and the last one."""
        kept = [*range(0, len(self.x) - 1, stride), len(self.x) - 1]
        points = (self.x[kept], self.mean[kept], self.low[kept], self.high[kept], self.values[:, kept])
        return Series(self.method, *points)

    def geometric(self) -> Series:
        """The same values with their geometric mean and the interval of their logarithms, for a logarithmic axis."""
        logs = _series(self.method, self.x, np.log(self.values))
        return replace(self, mean=np.exp(logs.mean), low=np.exp(logs.low), high=np.exp(logs.high))


def over_phases(experiment: Experiment, key: str, event: str | None = None) -> list[Series]:
    """One series per method over the phases, which are counted from 1. Phases without the measure are left out."""
    found: list[Series] = []
    for method in experiment.methods:
        values = experiment.over_phases(method, key, event)
        found += _known(method, np.arange(1.0, experiment.phases + 1), values)
    return found


def over_updates(experiment: Experiment, key: str) -> list[Series]:
    """One series per method over optimizer updates, from the evaluations inside the phases; empty without these.

    It keeps the updates at which every seed of the method was evaluated and at least one has a value.
    """
    if key not in experiment.keys(Event.EVALUATION):
        return []
    found: list[Series] = []
    for method in experiment.methods:
        taken = [
            [record for record in run.records if record["phase"] < experiment.phases]
            for run in experiment.runs[method].values()
        ]
        runs = [points(records, key, Event.EVALUATION, Event.PHASE_END) for records in taken]
        common = sorted(set.intersection(*(set(run) for run in runs)))
        values = np.array([[run[step] for step in common] for run in runs], dtype=np.float64)
        found += _known(method, np.array(common, dtype=np.float64), values)
    return found


def events_of(experiment: Experiment, key: str) -> list[str]:
    """The events at which a measure was recorded in the common phases: the score's first, then in the order of time."""
    own = experiment.shown.event
    events = [own, *(event for event in Event if event not in (own, Event.EVALUATION))]
    return [event for event in events if key in experiment.keys(event)]


def _known(method: str, x: Array, values: Array) -> list[Series]:
    """The series of the points at which a seed has a value; empty without such a point."""
    there = ~np.isnan(values).all(axis=0)
    return [_series(method, x[there], values[:, there])] if there.any() else []


def _series(method: str, x: Array, values: Array) -> Series:
    estimates = [mean_interval(column[~np.isnan(column)]) for column in values.T]
    low, high = (
        np.array([np.nan if bound is None else bound for bound in bounds], dtype=np.float64)
        for bounds in ([e.low for e in estimates], [e.high for e in estimates])
    )
    return Series(method, x, np.array([e.mean for e in estimates]), low, high, values)
