"""Curves from records: one mean curve per method with its interval, over phases or over the axis of the runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from replastic.records import Event
from replastic.report.experiment import Array, Experiment, points
from replastic.report.measures import bounds_of
from replastic.report.statistics import Bounds, mean_interval

INSIDE = (Event.EVALUATION, Event.PHASE_END)
"""Events of the scores inside a phase."""
ONCE = (Event.BEFORE_BOUNDARY, Event.BOUNDARY, Event.PHASE_END)
"""Events that happen once a phase, but for its start, which has a plot of its own (`phase_starts`)."""


@dataclass(frozen=True)
class Series:
    """One curve. `low` and `high` are its interval at each point, NaN where there is one seed alone."""

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


def over_phases(experiment: Experiment, key: str, event: str | None = None) -> list[Series]:
    """One series per method over the phases, which are counted from 1. Phases without the measure are left out."""
    found: list[Series] = []
    for method in experiment.methods:
        values = experiment.over_phases(method, key, event)
        found += _known(method, np.arange(1.0, experiment.phases + 1), values, bounds_of(experiment, key))
    return found


def over_axis(experiment: Experiment, key: str) -> list[Series]:
    """One series per method over the runs' axis (updates, frames), from the evaluations inside the phases.

    It keeps the places at which every seed of the method was evaluated and at least one has a value. It is empty
    without evaluations inside the phases.
    """
    if key not in experiment.keys(Event.EVALUATION):
        return []
    found: list[Series] = []
    for method in experiment.methods:
        taken = [
            [record for record in run.records if record["phase"] < experiment.phases]
            for run in experiment.runs[method].values()
        ]
        runs = [points(records, key, *INSIDE, axis=experiment.shown.axis) for records in taken]
        common = sorted(set.intersection(*(set(run) for run in runs)))
        values = np.array([[run[place] for place in common] for run in runs], dtype=np.float64)
        found += _known(method, np.array(common, dtype=np.float64), values, bounds_of(experiment, key))
    return found


def events_of(experiment: Experiment, key: str) -> list[str]:
    """The events at which a measure was recorded in the common phases: the score's first, then in the order of time."""
    own = experiment.shown.event
    events = [own, *(event for event in ONCE if event != own)]
    return [event for event in events if key in experiment.keys(event)]


def _known(method: str, x: Array, values: Array, bounds: Bounds) -> list[Series]:
    """The series of the points at which a seed has a value; empty without such a point."""
    there = ~np.isnan(values).all(axis=0)
    return [_series(method, x[there], values[:, there], bounds)] if there.any() else []


def _series(method: str, x: Array, values: Array, bounds: Bounds) -> Series:
    estimates = [mean_interval(column[~np.isnan(column)], bounds=bounds) for column in values.T]
    low, high = (
        np.array([np.nan if bound is None else bound for bound in bounds], dtype=np.float64)
        for bounds in ([e.low for e in estimates], [e.high for e in estimates])
    )
    return Series(method, x, np.array([e.mean for e in estimates]), low, high, values)
