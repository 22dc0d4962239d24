"""The contest of diagnostics: how well each measure at the start of a task predicts how the task will go."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from replastic import metrics
from replastic.errors import UnknownNameError, UserError
from replastic.extras import require
from replastic.records import Event, key, metric_name
from replastic.report import words
from replastic.report.experiment import HELD_OUT, Array, Experiment
from replastic.report.sheets import Column, Sheet
from replastic.report.statistics import INTERVAL, Difference, corrected, paired_difference, probability_of_improvement

STARTS = (Event.PHASE_START.value, Event.BOUNDARY.value)
"""The moments of a diagnostic, both alike: the method was applied, and no update of the new task has been made."""
KEPT = 0.8
"""A task fails where the score gains less than this share of what it gained in the run's first task (ours, fixed before
any result was seen)."""
LEAST = 4
"""Fewest points of a correlation."""
PLOT = "contest"
"""File stem of the plot of all tables."""
POOLED, WITHIN = "pooled", "same_task"
SAID = {-1: "lower", 0: "open", 1: "higher"}
"""The side on which networks are said to be more plastic, in words."""


@dataclass(frozen=True)
class Diagnostic:
    """A measure that was recorded at the starts of tasks."""

    name: str
    expected: int
    """1 if it is said to be high where a network is plastic, -1 if low, 0 if nothing is said."""


@dataclass(frozen=True)
class Outcome:
    """A number for every task of a run that diagnostics are to predict, higher where it went better."""

    name: str
    title: str
    note: str
    values: Mapping[str, Array]
    """(seeds, tasks) by method, NaN where it is not known."""
    correlate: Callable[[Array, Array, Array], float | None]
    """From a diagnostic, the outcome and the groups in which points are compared, (points,) each, to a rank
    correlation; None if there is none."""


def contest(experiment: Experiment) -> list[Sheet]:
    """One table for each outcome that differs, a row for each diagnostic: pooled, within the same task, by method.

    A correlation is computed for each seed, and the table has its mean over seeds with the t interval, as all tables
    do; the correlations of a table are corrected together (Holm). Boundaries before the methods are on do not count.

    * **pooled**: over all tasks and methods of a seed.
    * **same task**: over the methods within a task, so that nothing that grows over the tasks looks like a cause.
    * **a method**: over the tasks of its run.

    Raises:
        UserError: No measure was recorded at the starts of tasks; the runs have fewer than 5 tasks; or nothing differs.
    """
    found = diagnostics(experiment)
    if not found:
        raise UserError(
            f"these runs recorded no measure of the network at the start of a {experiment.shown.phase_label}: run them "
            "with --start-metrics, such as dfi effective_rank hessian_rank readiness"
        )
    tasks = experiment.phases - max(1, experiment.first)
    if tasks < LEAST:
        label = experiment.shown.phase_label
        raise UserError(
            f"a rank correlation needs at least {LEAST} boundaries, and these runs have {words.count(tasks, label)} "
            f"after the first: train more {label}s"
        )
    sheets = _sheets(experiment, found)
    if not sheets:
        raise UserError(
            f"nothing can be ranked: no seed has {LEAST} {experiment.shown.phase_label}s with measures that differ and "
            "outcomes that differ; wait for more of the runs, or measure at more starts (--start-every)"
        )
    return sheets


def recorded(experiment: Experiment) -> list[Sheet]:
    """The tables of a contest, if measures were taken before the first updates of tasks and can be ranked."""
    if not any(of.count("/") == 1 for of in experiment.keys(Event.PHASE_START)):
        return []
    if experiment.phases - max(1, experiment.first) < LEAST:
        return []
    return _sheets(experiment, diagnostics(experiment))


def diagnostics(experiment: Experiment) -> list[Diagnostic]:
    """The measures of the network at the starts of tasks, but scores and measures of a change."""
    score = experiment.shown.score
    found = []
    for of in _keys(experiment):
        if of.count("/") != 1 or of == score or of.startswith(f"{score}_") or of.endswith(HELD_OUT):
            continue
        try:
            metric = metrics.get(metric_name(of))
        except UnknownNameError:
            found.append(Diagnostic(metric_name(of), 0))
            continue
        if metric.on != "change":
            side = metric.plastic or metric.better
            found.append(Diagnostic(metric_name(of), {"higher": 1, "lower": -1}.get(side, 0)))
    return found


def outcomes(experiment: Experiment) -> list[Outcome]:
    """The score at the end of the task, its failure, and the measures of plasticity itself at its start."""
    shown = experiment.shown
    label, sign = shown.phase_label, 1.0 if shown.higher_is_better else -1.0
    ends = {method: sign * experiment.over_phases(method, shown.score) for method in experiment.methods}
    found = [
        Outcome(
            "score",
            f"What predicts the score at the end of a {label}",
            f"Spearman's rank correlation with {shown.score_label}"
            + ("" if shown.higher_is_better else ", its sign turned so that higher is better")
            + ".",
            ends,
            spearman,
        ),
        Outcome(
            "failure",
            f"What predicts that a {label} does not fail",
            f"Somers' D: the probability that the measure is higher before a {label} that goes well than before one "
            f"that fails, minus that it is lower. A {label} fails where the score gains less than {KEPT:.0%} of what "
            f"it gained in the first {label} of the run.",
            {method: _success(experiment, method, sign * end) for method, end in ends.items()},
            somers,
        ),
    ]
    for of in _keys(experiment):
        if of.count("/") == 1 and _is_outcome(metric_name(of)):
            name = metric_name(of)
            measured = {method: at_start(experiment, method, of) for method in experiment.methods}
            title = f"What goes along with {name.replace('_', ' ')} at the start of a {label}"
            note = f"Spearman's rank correlation with {words.measure(of).label}, taken at the same moment."
            found.append(Outcome(name, title, note, measured, spearman))
    return found


def at_start(experiment: Experiment, method: str, of: str) -> Array:
    """A measure at the starts of tasks, (seeds, tasks), NaN where it was not recorded."""
    first, second = (experiment.over_phases(method, of, event) for event in STARTS)
    return np.where(np.isnan(first), second, first)


def _keys(experiment: Experiment) -> list[str]:
    return sorted({of for event in STARTS for of in experiment.keys(event)})


def spearman(x: Array, y: Array, group: Array) -> float | None:
    """Spearman's rank correlation, of ranks within each group; None if there are few points or a side is constant."""
    if x.size < LEAST:
        return None
    a, b = (_ranks(of, group) for of in (x, y))
    spread = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / spread if spread > 0 else None


def somers(x: Array, success: Array, group: Array) -> float | None:
    """Somers' D of a diagnostic and success (1 or 0): 2 AUC - 1, over pairs within a group.

    None if there are few points, no pair, or the diagnostic is constant.
    """
    if x.size < LEAST or x.min() == x.max():
        return None
    won, pairs = 0.0, 0
    for one in np.unique(group):
        good, bad = (x[(group == one) & (success == value)] for value in (1.0, 0.0))
        if good.size and bad.size:
            won += good.size * bad.size * (2 * probability_of_improvement(bad, good) - 1)
            pairs += good.size * bad.size
    return won / pairs if pairs else None


def _success(experiment: Experiment, method: str, ends: Array) -> Array:
    """1 where a task went well, 0 where it failed: (seeds, tasks). The start of a gain is the mean score at starts."""
    starts = at_start(experiment, method, experiment.shown.score)
    known = ~np.isnan(starts).all(axis=1)
    start = np.full(len(starts), math.nan)
    start[known] = np.nanmean(starts[known], axis=1)
    first = ends[:, 0] - start
    share = (ends - start[:, None]) / np.where(first == 0, math.nan, first)[:, None]
    return np.where(np.isnan(share), math.nan, (share >= KEPT).astype(np.float64))


def _sheets(experiment: Experiment, found: Sequence[Diagnostic]) -> list[Sheet]:
    sheets = (_sheet(experiment, outcome, found) for outcome in outcomes(experiment))
    return [sheet for sheet in sheets if sheet.rows]


def _sheet(experiment: Experiment, outcome: Outcome, found: Sequence[Diagnostic]) -> Sheet:
    labels = words.labels(experiment.methods)
    rows = {
        one.name: _row(experiment, outcome, one)
        for one in found
        if one.name != outcome.name  # nothing predicts itself
    }
    flat = [(name, column) for name, row in rows.items() for column in row]
    tested = corrected([rows[name][column] for name, column in flat])
    marked: dict[str, dict[str, Difference]] = {name: {} for name in rows}
    for (name, column), difference in zip(flat, tested, strict=True):
        assert difference is not None
        marked[name][column] = difference
    expected = {one.name: one.expected for one in found}
    order = sorted((name for name in marked if marked[name]), key=partial(_place, marked, expected))
    label = experiment.shown.phase_label
    columns = [
        Column(POOLED, "pooled", f"Over all {label}s and methods of a seed"),
        Column(WITHIN, f"same {label}", f"Over the methods within a {label}"),
        *(Column(method, labels[method], "") for method in experiment.methods),
    ]
    note = (
        f"{outcome.note} A column named after a method is over its {label}s. Mean over seeds with its {INTERVAL}; "
        f"positive where higher values of the measure go with better {label}s; weak: the interval excludes zero, but "
        f"Holm's correction for {len(flat)} correlations says that it proves little. In brackets is the side on which "
        "networks are said to be more plastic."
    )
    heads = {name: f"{name.replace('_', ' ')} ({SAID[expected[name]]})" for name in order}
    there = [column for column in columns if any(column.name in row for row in marked.values())]
    name = f"contest_{outcome.name}"
    return Sheet(name, outcome.title, note, tuple(there), {n: marked[n] for n in order}, heads, "diagnostic", PLOT)


def _place(
    rows: Mapping[str, Mapping[str, Difference]], expected: Mapping[str, int], name: str
) -> tuple[bool, float, str]:
    """Order of the rows: the best predictor in the expected direction first, those without a correlation last."""
    pooled = rows[name].get(POOLED)
    if pooled is None or math.isnan(pooled.mean):
        return True, 0.0, name
    return False, -(expected[name] * pooled.mean if expected[name] else abs(pooled.mean)), name


def _row(experiment: Experiment, outcome: Outcome, diagnostic: Diagnostic) -> dict[str, Difference]:
    """The correlations of one diagnostic: pooled, within the same task, and by method."""
    first = max(1, experiment.first)
    pairs: dict[int, list[tuple[Array, Array]]] = {}
    row: dict[str, Difference] = {}
    alone: dict[str, Difference] = {}
    for method in experiment.methods:
        x = at_start(experiment, method, key(diagnostic.name))[:, first:]
        y = outcome.values[method][:, first:]
        by_seed = dict(zip(experiment.runs[method], zip(x, y, strict=True), strict=True))
        for seed, pair in by_seed.items():
            pairs.setdefault(seed, []).append(pair)
        _add(alone, method, {seed: _of(outcome, *pair) for seed, pair in by_seed.items()})
    joined = {seed: (np.stack([x for x, _ in of]), np.stack([y for _, y in of])) for seed, of in pairs.items()}
    _add(row, POOLED, {seed: _of(outcome, x, y) for seed, (x, y) in joined.items()})
    _add(row, WITHIN, {seed: _of(outcome, x, y, by_task=True) for seed, (x, y) in joined.items()})
    return row | alone


def _add(row: dict[str, Difference], column: str, by_seed: Mapping[int, float | None]) -> None:
    """Put the mean over seeds into a row, if a seed has a correlation."""
    known = {seed: value for seed, value in by_seed.items() if value is not None}
    estimate = paired_difference(known, dict.fromkeys(known, 0.0), bounds=(0.0, 1.0))
    if estimate is not None:
        row[column] = estimate


def _of(outcome: Outcome, x: Array, y: Array, *, by_task: bool = False) -> float | None:
    """The correlation over points with both values: (tasks,) each, or (methods, tasks)."""
    there = ~(np.isnan(x) | np.isnan(y))
    group = np.broadcast_to(np.arange(x.shape[-1]) if by_task else np.zeros(x.shape[-1]), x.shape)
    return outcome.correlate(x[there], y[there], group[there].astype(np.float64))


def _ranks(x: Array, group: Array) -> Array:
    """Ranks within each group, minus their mean."""
    rank = require("scipy.stats", "report", "a rank correlation").rankdata
    found = np.zeros(x.size)
    for one in np.unique(group):
        there = group == one
        found[there] = rank(x[there]) - (there.sum() + 1) / 2
    return found


def _is_outcome(name: str) -> bool:
    try:
        return metrics.get(name).outcome
    except UnknownNameError:
        return False
