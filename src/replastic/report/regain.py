"""How far a run has to train after a boundary until it is back where it was, and as far as the reference came."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from replastic.records import Event, Record, metric_name
from replastic.report import starts
from replastic.report.experiment import Experiment, points
from replastic.report.run_data import STEP, RunData
from replastic.report.sheets import Column, Sheet, at_boundaries
from replastic.report.statistics import FREE, Bounds, Estimate, mean_interval
from replastic.report.tables import REFERENCE, Table

BOUNDS: Mapping[str, Bounds] = {"regain": (0.0, None), "reach": (0.0, None), "reached": (0.0, 1.0)}
"""Least and largest values of the columns."""


def regain(table: Table) -> Sheet:
    """The table of runs with an axis of their own, such as tokens; without rows for others."""
    experiment = table.experiment
    unit, others = experiment.shown.axis_label, _others(experiment)
    columns = [
        Column(
            "regain",
            f"{unit} to regain",
            f"{unit} after the boundary until the score is back at its value before it, between two evaluations by a "
            "line; over the runs that get there",
        ),
        Column(
            "reach",
            f"{unit} to reach {REFERENCE}",
            f"{unit} after the boundary until the score is that with which {REFERENCE} ends, from the same checkpoint "
            "and with the same seed; over the runs that get there",
        ),
        Column("reached", "reached it", f"share of the runs that reach what {REFERENCE} ends with"),
        *(
            Column(f"change_{name}", f"{name} since", f"{name} at the end minus {name} before the boundary")
            for name in map(metric_name, others)
        ),
    ]
    rows = {row.method: _row(experiment, row.method, others) for row in table.rows} if _suits(experiment) else {}
    return at_boundaries(table, "regain", "Back to where it was", columns, {m: row for m, row in rows.items() if row})


def _suits(experiment: Experiment) -> bool:
    own = experiment.shown.axis != STEP[0] and experiment.first == experiment.phases - 1 > 0
    return own and experiment.shown.score in experiment.keys(Event.EVALUATION)


def _others(experiment: Experiment) -> list[str]:
    """Further curves that are taken at every evaluation, such as the loss on the old data."""
    return [key for key in experiment.shown.curves if key in experiment.keys(Event.EVALUATION)]


def _row(experiment: Experiment, method: str, others: Sequence[str]) -> dict[str, Estimate]:
    shown, phase = experiment.shown, experiment.phases - 1
    start, _ = starts.split(method)
    reference = experiment.runs.get(start or REFERENCE, experiment.runs.get(REFERENCE, {}))
    columns: dict[str, list[float]] = {}
    for seed, run in experiment.runs[method].items():
        before, curve = _around(run, shown.score, phase, shown.axis)
        if not curve or before is None:
            continue
        columns.setdefault("regain", []).append(_distance(curve, before, shown.higher_is_better))
        if seed in reference:
            _, other = _around(reference[seed], shown.score, phase, shown.axis)
            reach = _distance(curve, other[-1][1], shown.higher_is_better) if other else math.nan
            columns.setdefault("reach", []).append(reach)
            columns.setdefault("reached", []).append(float(math.isfinite(reach)))
        for key in others:
            was, then = _around(run, key, phase, shown.axis)
            if was is not None and then:
                columns.setdefault(f"change_{metric_name(key)}", []).append(then[-1][1] - was)
    known = {name: [value for value in values if math.isfinite(value)] for name, values in columns.items()}
    return {name: mean_interval(values, bounds=BOUNDS.get(name, FREE)) for name, values in known.items() if values}


def _around(run: RunData, key: str, phase: int, axis: str) -> tuple[float | None, list[tuple[float, float]]]:
    """The score before the boundary of a phase, and those from just after it on, by the distance from it."""
    records: list[Record] = [record for record in run.records if record["phase"] == phase]
    before = [*points(records, key, Event.BEFORE_BOUNDARY, axis=axis).values()]
    after = points(records, key, Event.BOUNDARY, axis=axis)
    inside = points(records, key, Event.EVALUATION, Event.PHASE_END, axis=axis)
    if not before or not after:
        return None, []
    begin = min(after)
    return before[-1], [(place - begin, value) for place, value in {**after, **inside}.items()]


def _distance(curve: Sequence[tuple[float, float]], goal: float, higher_is_better: bool) -> float:
    """Where a curve first is as good as the goal, on the line between two of its points; NaN if nowhere."""
    sign = 1.0 if higher_is_better else -1.0
    last: tuple[float, float] | None = None
    for place, value in curve:
        if sign * value >= sign * goal:
            if last is None:
                return place
            return last[0] + (place - last[0]) * (goal - last[1]) / (value - last[1])
        last = place, value
    return math.nan
