"""Runs that began their last phase at different checkpoints: one panel for each, as in figure 3 of the FIRE paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from replastic import methods
from replastic.errors import UnknownNameError
from replastic.options import name_of, pieces
from replastic.records import Event
from replastic.report import axes, scales, series, words
from replastic.report.plot import PHONE, WIDE, Plot, plot, subplots
from replastic.report.series import Series
from replastic.report.statistics import INTERVAL
from replastic.report.tables import REFERENCE, Table

END = ""
"""The start of those that go on from where the phase before ended."""


def split(spec: str) -> tuple[str, str]:
    """The checkpoint at which a method begins and the method itself: ``from_checkpoint:at=best`` and ``fire``."""
    first, *others = pieces(spec)
    try:
        back = methods.get(name_of(first)).goes_back
    except UnknownNameError:
        back = False
    return (first, "+".join(others) or REFERENCE) if back else (END, spec)


def starts(specs: Sequence[str]) -> dict[str, dict[str, str]]:
    """By checkpoint the specs of at least two methods that began there, by the method; empty if there is one start."""
    found: dict[str, dict[str, str]] = {}
    for spec in specs:
        start, method = split(spec)
        found.setdefault(start, {})[method] = spec
    several = {start: group for start, group in found.items() if len(group) > 1}
    return dict(sorted(several.items(), reverse=True)) if len(several) > 1 else {}


def panels(table: Table) -> list[Plot]:
    """The score after the last boundary, a panel for each checkpoint; none where all runs began at one."""
    experiment = table.experiment
    groups, drawn = starts(experiment.methods), _since_boundary(table)
    known = {one.method: one for one in drawn}
    panes = {start: [_shown(known[s], m, table) for m, s in g.items() if s in known] for start, g in groups.items()}
    panes = {start: lines for start, lines in panes.items() if lines}
    if not panes:
        return []
    logarithmic = scales.is_logarithmic([one.values for one in drawn])

    def fill(figure: Any, narrow: bool) -> None:
        grid = subplots(figure, len(panes), 1 if narrow else 2, sharex=True, sharey=True)
        for ax, (start, lines) in zip(grid, panes.items(), strict=True):
            axes.curves(ax, lines, table)
            axes.name(ax, experiment.shown.axis_label, experiment.shown.score_label if ax is grid[0] or narrow else "")
            ax.set_title(axes.wrapped(in_words(start), 40), fontsize=10, loc="left", color=axes.SOFT)
        axes.frame(grid[0], [one for lines in panes.values() for one in lines], logarithmic=logarithmic)
        for ax, lines in zip(grid, panes.values(), strict=True):
            axes.label_ends(ax, lines, table)

    rows = -(-len(panes) // 2)
    said = "; ".join(
        f"{in_words(start)}: " + ", ".join(f"{one.method} to {words.number(one.mean[-1])}" for one in lines)
        for start, lines in panes.items()
    )
    return [
        plot(
            "checkpoints",
            "From each checkpoint",
            f"{experiment.shown.score_label} after the boundary, one panel per checkpoint. {said}",
            f"Mean over seeds after the boundary, by the checkpoint from which the methods went on; bands are the "
            f"{INTERVAL}. In every panel a method has the same colour.",
            fill,
            (WIDE, 0.4 + 3.4 * rows),
            (PHONE, 0.4 + 2.9 * len(panes)),
        )
    ]


def in_words(start: str) -> str:
    """A title for a checkpoint."""
    return f"from {start.partition(':')[2].replace('at=', '') or start}" if start else "from where the phase ended"


def _since_boundary(table: Table) -> list[Series]:
    """The score within the last phase, over the axis since its boundary."""
    experiment = table.experiment
    if not experiment.first:
        return []
    found = []
    for one in series.over_axis(experiment, experiment.shown.score):
        runs = experiment.runs[one.method].values()
        end = max(
            record[experiment.shown.axis]
            for run in runs
            for record in run.records
            if record["event"] == Event.BOUNDARY and record["phase"] < experiment.phases
        )
        later = one.x > end
        x, mean, low, high = one.x[later] - end, one.mean[later], one.low[later], one.high[later]
        found.append(Series(one.method, np.asarray(x), mean, low, high, one.values[:, later]))
    return [one for one in found if len(one.x)]


def _shown(one: Series, method: str, table: Table) -> Series:
    """The curve under the name of its method alone, where that was run too, so that it has that one's colour."""
    return replace(one, method=method) if any(row.method == method for row in table.rows) else one
