"""The plots of a report: scores with their intervals, and what the diagnostics say."""

from __future__ import annotations

from typing import Any

from replastic.report import axes, series, style, words
from replastic.report.plot import NARROW, WIDE, Plot, plot, subplots
from replastic.report.series import Series
from replastic.report.tables import Table

BAND = "The band is the 95% t interval over seeds, cut off at the frame; fewer than three seeds are thin lines instead."


def draw(table: Table) -> list[Plot]:
    """Every plot of a report, the score first; needs matplotlib."""
    experiment = table.experiment
    plots = [_final(table), _score(table)]
    if experiment.shown.score in experiment.keys("evaluation"):
        plots.append(_learning(table))
    if any(not line.front for line in style.lines(table).values()):
        plots.append(_each(table))
    plots += [_diagnostic(table, key) for key in experiment.shown.curves if series.events_of(experiment, key)]
    return plots


def _score(table: Table) -> Plot:
    experiment, label = table.experiment, table.experiment.shown.phase_label
    drawn = series.over_phases(experiment, experiment.shown.score)
    span, taken = words.count(experiment.phases, label), f"the end of each {label}"
    return _over(table, drawn, "score", f"Score over {label}s", label, span, taken)


def _learning(table: Table) -> Plot:
    experiment, label = table.experiment, table.experiment.shown.phase_label
    drawn = series.over_updates(experiment, experiment.shown.score)
    updates = "optimizer updates"
    return _over(table, drawn, "learning", f"Within the {label}s", updates, updates, "every evaluation")


def _over(table: Table, drawn: list[Series], name: str, title: str, x: str, span: str, taken: str) -> Plot:
    """The score over the whole width; `span` says over what, `taken` when."""
    score = table.experiment.shown.score_label

    def fill(figure: Any, narrow: bool) -> None:
        ax = figure.add_subplot()
        axes.curves(ax, drawn, table)
        axes.name(ax, x, score)
        axes.frame(ax, drawn)
        axes.label_ends(ax, drawn, table)

    return plot(
        name,
        title,
        f"{score} over {span}, one line per method: {_ends(table, drawn)}",
        f"Mean over seeds at {taken}. {BAND}{_behind(table)}",
        fill,
        (WIDE, 4.3),
        (NARROW, 4.0),
    )


def _final(table: Table) -> Plot:
    shown = table.experiment.shown
    paired = any(row.difference is not None for row in table.rows)

    def fill(figure: Any, narrow: bool) -> None:
        left, *rest = subplots(figure, 2 if paired else 1, 1 if narrow else 2)
        axes.dots(left, table, [row.final for row in table.rows], seeds=True)
        axes.name(left, shown.score_label, "", grid="x")
        for ax in rest:
            axes.dots(ax, table, [row.difference for row in table.rows], zero=True)
            axes.name(ax, f"difference to {table.reference}, same seeds", "", grid="x")
            ax.tick_params(labelleft=narrow)

    return plot(
        "final",
        f"After the last {shown.phase_label}",
        f"{shown.score_label} after {shown.phase_label} {table.experiment.phases} with 95% intervals: "
        + "; ".join(f"{row.label} {words.number(row.final.mean)} ({words.interval(row.final)})" for row in table.rows),
        "Score: mean with its 95% interval, faint dots are single seeds."
        + (" Difference: an interval that crosses the line at zero settles nothing." if paired else ""),
        fill,
        (WIDE, 1.2 + 0.27 * len(table.rows)),
        (NARROW, (1 + paired) * (0.9 + 0.27 * len(table.rows))),
    )


def _each(table: Table) -> Plot:
    shown = table.experiment.shown
    curves = {c.method: c for c in series.over_phases(table.experiment, shown.score)}
    others = [row for row in table.rows if row.method != table.reference]

    def fill(figure: Any, narrow: bool) -> None:
        grid = subplots(figure, len(others), 3 if narrow else 5, sharex=True, sharey=True)
        for ax, row in zip(grid, others, strict=True):
            pair = [curves[m] for m in (table.reference, row.method) if m is not None]
            axes.curves(ax, pair, table, emphasise=row.method)
            axes.name(ax, "", "")
            ax.set_title(row.label.replace(" ", "\n", 1), fontsize=8.5, loc="left", color=axes.INK)
        axes.frame(grid[0], list(curves.values()))
        figure.supxlabel(shown.phase_label, fontsize=10, color=axes.SOFT)
        figure.supylabel(shown.score_label, fontsize=10, color=axes.SOFT)

    against = f", {table.reference} in grey" if table.reference else ""
    return plot(
        "methods",
        "Method by method",
        f"One small plot per method of {shown.score_label} over {shown.phase_label}s{against}.",
        f"Best final score first{against}. All share their axes.",
        fill,
        (WIDE, 0.7 + 1.45 * -(-len(others) // 5)),
        (NARROW, 0.7 + 1.35 * -(-len(others) // 3)),
    )


def _diagnostic(table: Table, key: str) -> Plot:
    experiment = table.experiment
    label = experiment.shown.phase_label
    when = {event: text.format(label) for event, text in WHEN.items()}
    events = sorted(series.events_of(experiment, key)[:2], key=list(WHEN).index)
    drawn = {event: series.over_phases(experiment, key, event) for event in events}
    measure = words.measure(key)
    logarithmic = axes.spans_decades([one.values for found in drawn.values() for one in found])
    if logarithmic:
        drawn = {event: [one.geometric() for one in found] for event, found in drawn.items()}
    together = [one for found in drawn.values() for one in found]

    def fill(figure: Any, narrow: bool) -> None:
        grid = subplots(figure, len(events), 1 if narrow else 2, sharey=True)
        for ax, event in zip(grid, events, strict=True):
            axes.curves(ax, drawn[event], table)
            axes.name(ax, label, measure.label if narrow or ax is grid[0] else "")
            if len(events) > 1:
                ax.set_title(when[event], fontsize=10, loc="left", color=axes.SOFT)
        axes.frame(grid[0], together)
        for ax, event in zip(grid, events, strict=True):
            if narrow or ax is grid[-1]:
                axes.label_ends(ax, drawn[event], table)

    scale = " Logarithmic scale: geometric means, and intervals of the logarithms." if logarithmic else ""
    return plot(
        measure.name.replace("/", "_"),
        measure.label,
        f"{measure.label} over {label}s, {when[events[-1]]}, one line per method: " + _ends(table, drawn[events[-1]]),
        f"{measure.summary}{'' if len(events) > 1 else f' Taken {when[events[0]]}.'}{scale}".strip(),
        fill,
        (WIDE, 3.5) if len(events) > 1 else (NARROW, 3.5),
        (NARROW, 6.0) if len(events) > 1 else None,
    )


WHEN = {
    "before_boundary": "before the {}, its method not yet applied",
    "boundary": "before the {}, its method applied",
    "phase_end": "at the end of the {}",
}
"""Events at which diagnostics are taken, in order of time."""


def _behind(table: Table) -> str:
    """What the thin grey lines are, if there are any."""
    others = sum(not line.front for line in style.lines(table).values())
    return (
        f" Thin and grey: the other {words.count(others, 'method')}, each with a plot of its own below."
        if others
        else ""
    )


def _ends(table: Table, curves: list[Series]) -> str:
    """First and last value of each main line, for the alternative text."""
    labels = words.labels(table.experiment.methods)
    front = style.lines(table)
    return "; ".join(
        f"{labels[c.method]} from {words.number(c.mean[0])} to {words.number(c.mean[-1])}"
        for c in curves
        if front[c.method].front
    )
