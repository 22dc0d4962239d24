"""Numbers of one run that are read off its records: the score at the end, on average, and around the boundaries."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from replastic.records import Record
from replastic.report.experiment import Experiment, RunData


def final_scores(experiment: Experiment, method: str) -> dict[int, float]:
    """Score at the end of the last common phase, by seed."""
    scores = experiment.over_phases(method, experiment.shown.score)[:, -1]
    return dict(zip(experiment.runs[method], scores.tolist(), strict=True))


def mean_scores(experiment: Experiment, method: str) -> dict[int, float]:
    """Score averaged over the ends of all common phases, by seed."""
    scores = experiment.over_phases(method, experiment.shown.score).mean(axis=1)
    return dict(zip(experiment.runs[method], scores.tolist(), strict=True))


def costs(experiment: Experiment, method: str) -> dict[int, float]:
    """Seconds from the run's beginning to the end of the last common phase, the first phase included, by seed."""
    found = {
        seed: run.seconds(experiment.shown.event, experiment.phases - 1)
        for seed, run in experiment.runs[method].items()
    }
    return {seed: seconds for seed, seconds in found.items() if seconds is not None}


@dataclass(frozen=True)
class Boundaries:
    """What happens around the boundaries of one run, each averaged over its phases from the second on.

    `area`: mean score over the updates of a phase (trapezoids between its evaluations, divided by the updates they
    span), the first phase included. `drop`: score just before a boundary minus the first one after it, so that a
    positive drop is a loss whichever direction is better. `recovery`: evaluations until the score is back at its value
    before the boundary, 1 if the first one is; a phase that never gets there counts as one more than it has, so the
    mean is then too low. `recovered`: share of phases that got there.
    """

    area: float
    drop: float
    recovery: float
    recovered: float


def boundaries(run: RunData, key: str, *, phases: int, higher_is_better: bool = True) -> Boundaries | None:
    """Measures around the boundaries, or None for a run without evaluations inside its phases.

    The score before a boundary is the one recorded at ``before_boundary``, else the last of the phase before; the first
    one after it is that at ``boundary``, else the first evaluation of the new phase.
    """
    sign = 1.0 if higher_is_better else -1.0
    inside = [_points(run.records, key, phase, ("evaluation", "phase_end")) for phase in range(phases)]
    if not any(r["event"] == "evaluation" and key in r for r in run.records) or not all(inside):
        return None
    drops, recoveries, recovered = [], [], []
    for phase in range(1, phases):
        values = [sign * value for _, value in inside[phase]]
        before_points = _points(run.records, key, phase, ("before_boundary",)) or inside[phase - 1]
        after_points = _points(run.records, key, phase, ("boundary",)) or inside[phase]
        before = sign * before_points[-1][1]
        drops.append(before - sign * after_points[0][1])
        back = next((i for i, value in enumerate(values, start=1) if value >= before), None)
        recoveries.append(len(values) + 1 if back is None else back)
        recovered.append(back is not None)
    return Boundaries(
        area=float(np.mean([_area(points) for points in inside])),
        drop=float(np.mean(drops)) if drops else math.nan,
        recovery=float(np.mean(recoveries)) if recoveries else math.nan,
        recovered=float(np.mean(recovered)) if recovered else math.nan,
    )


def layers(experiment: Experiment, method: str, key: str) -> dict[str, float]:
    """A measure by layer at the end of the last common phase, averaged over seeds."""
    prefix = f"{key}/"
    last = experiment.phases - 1
    values: dict[str, list[float]] = {}
    for run in experiment.runs[method].values():
        for name, value in _last(run.records, experiment.shown.event, last, prefix).items():
            values.setdefault(name, []).append(value)
    return {name: float(np.mean(v)) for name, v in values.items()}


def _last(records: Sequence[Record], event: str, phase: int, prefix: str) -> Mapping[str, float]:
    return {
        key.removeprefix(prefix): float(value)
        for r in records
        if r["event"] == event and r["phase"] == phase
        for key, value in r.items()
        if key.startswith(prefix) and value is not None
    }


def _points(records: Sequence[Record], key: str, phase: int, events: tuple[str, ...]) -> list[tuple[int, float]]:
    """(step, score) of one phase at the given events, in order; one point per step."""
    found = {r["step"]: float(r[key]) for r in records if r["phase"] == phase and r["event"] in events and key in r}
    return sorted(found.items())


def _area(points: Sequence[tuple[int, float]]) -> float:
    steps, values = (np.array(column, dtype=np.float64) for column in zip(*points, strict=True))
    span = steps[-1] - steps[0]
    return float(((values[1:] + values[:-1]) / 2 * np.diff(steps)).sum() / span) if span > 0 else float(values[-1])
