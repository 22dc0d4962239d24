"""The plots of a report: scores with their intervals, and diagnostics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from replastic.records import Event, metric_name
from replastic.report import (
    axes,
    contest_plot,
    dots,
    learning,
    over_seeds,
    phase_starts,
    scales,
    series,
    starts,
    style,
    words,
)
from replastic.report.contest import PLOT
from replastic.report.games import Games
from replastic.report.plot import NARROW, PHONE, WIDE, Plot, plot, subplots
from replastic.report.safe import stem
from replastic.report.series import Series
from replastic.report.sheets import AFTER, Sheet
from replastic.report.tables import Table


def draw(table: Table, more: Sequence[Sheet] = ()) -> list[Plot]:
    """Every plot of a report, the score first, and the plots of the sheets; needs matplotlib."""
    experiment = table.experiment
    plots = [dots.final(table), _score(table)]
    plots += [_further(table, key) for key in experiment.further_scores]
    games = Games.of(table)
    plots += learning.curves(games)
    if any(not line.front for line in style.lines(table).values()):
        plots.append(_each(table))
    plots += starts.panels(table)
    plots += [dots.just_after(table, sheet) for sheet in more if sheet.name == AFTER]
    plots += over_seeds.profiles(games)
    ranked = [sheet for sheet in more if sheet.beside == PLOT]
    plots += phase_starts.panels(table)
    plots += [contest_plot.draw(ranked)] if ranked else []
    asked = [key for key in experiment.shown.curves if key not in experiment.further_scores]
    plots += [_diagnostic(table, key) for key in asked if series.events_of(experiment, key)]
    return plots


def _score(table: Table) -> Plot:
    experiment, label = table.experiment, table.experiment.shown.phase_label
    drawn = series.over_phases(experiment, experiment.shown.score)
    span, taken = words.count(experiment.phases, label), f"the end of each {label}"
    return _over(table, drawn, "score", f"Score over {label}s", label, span, taken)


def _further(table: Table, key: str) -> Plot:
    experiment, label = table.experiment, table.experiment.shown.phase_label
    drawn = series.over_phases(experiment, key)
    name = stem(metric_name(key))
    title = f"{experiment.shown.label(key)}, over {label}s"
    span, taken = words.count(experiment.phases, label), f"the end of each {label}"
    return _over(table, drawn, name, title, label, span, taken, score=experiment.shown.label(key))


def _over(
    table: Table, drawn: list[Series], name: str, title: str, x: str, span: str, taken: str, *, score: str = ""
) -> Plot:
    """A plot of a score over the whole width; the experiment's own score unless `score` names another.

    `span` and `taken` are words for the caption: the range of the curve, and the moments of its points.
    """
    score = score or table.experiment.shown.score_label
    logarithmic = scales.is_logarithmic([one.values for one in drawn])
    scale = " Logarithmic axis." if logarithmic else ""

    def fill(figure: Any, narrow: bool) -> None:
        ax = figure.add_subplot()
        axes.curves(ax, drawn, table)
        axes.name(ax, x, score)
        axes.frame(ax, drawn, logarithmic=logarithmic)
        axes.label_ends(ax, drawn, table)

    return plot(
        name,
        title,
        f"{score} over {span}, one line per method: {axes.ends(table, drawn)}",
        f"Mean over seeds at {taken}. {axes.BAND}{scale}{style.behind(table)}",
        fill,
        (WIDE, 4.3),
        (PHONE, 3.6),
    )


def _each(table: Table) -> Plot:
    shown = table.experiment.shown
    curves = {c.method: c for c in series.over_phases(table.experiment, shown.score)}
    others = [row for row in table.rows if row.method != table.reference]
    logarithmic = scales.is_logarithmic([one.values for one in curves.values()])

    def fill(figure: Any, narrow: bool) -> None:
        grid = subplots(figure, len(others), 3 if narrow else 5, sharex=True, sharey=True)
        for ax, row in zip(grid, others, strict=True):
            pair = [curves[m] for m in (table.reference, row.method) if m in curves]
            axes.curves(ax, pair, table, emphasise=row.method)
            axes.name(ax, "", "")
            title = f"{row.label} (control)" if row.control else row.label
            ax.set_title(axes.wrapped(title, 20), fontsize=8, loc="left", color=axes.INK)
        axes.frame(grid[0], list(curves.values()), logarithmic=logarithmic)
        figure.supxlabel(shown.phase_label, fontsize=10, color=axes.SOFT)
        figure.supylabel(shown.score_label, fontsize=10, color=axes.SOFT)

    against = f", {table.reference} in grey" if table.reference else ""
    return plot(
        "methods",
        "Method by method",
        f"One small plot per method of {shown.score_label} over {shown.phase_label}s{against}.",
        f"Best final score first, controls last{against}. All share their axes.",
        fill,
        (WIDE, 0.7 + 1.45 * -(-len(others) // 5)),
        (PHONE, 0.7 + 1.35 * -(-len(others) // 3)),
    )


def _diagnostic(table: Table, key: str) -> Plot:
    experiment = table.experiment
    label = experiment.shown.phase_label
    when = {event: text.format(label) for event, text in WHEN.items()}
    events = sorted(series.events_of(experiment, key)[:2], key=list(WHEN).index)
    drawn = {event: series.over_phases(experiment, key, event) for event in events}
    measure = words.measure(key)
    together = [one for found in drawn.values() for one in found]
    logarithmic = scales.is_logarithmic([one.values for one in together], asked=measure.logarithmic)

    def fill(figure: Any, narrow: bool) -> None:
        grid = subplots(figure, len(events), 1 if narrow else 2, sharey=True)
        for ax, event in zip(grid, events, strict=True):
            axes.curves(ax, drawn[event], table)
            axes.name(ax, label, measure.label if narrow or ax is grid[0] else "")
            if len(events) > 1:
                ax.set_title(when[event], fontsize=10, loc="left", color=axes.SOFT)
        axes.frame(grid[0], together, logarithmic=logarithmic)
        for ax, event in zip(grid, events, strict=True):
            if narrow or ax is grid[-1]:
                axes.label_ends(ax, drawn[event], table)

    scale = " Logarithmic axis." if logarithmic else ""
    return plot(
        stem(measure.name),
        measure.label,
        f"{measure.label} over {label}s, {when[events[-1]]}, one line per method: "
        + axes.ends(table, drawn[events[-1]]),
        f"{measure.summary}{'' if len(events) > 1 else f' Taken {when[events[0]]}.'}{scale}".strip(),
        fill,
        (WIDE, 3.5) if len(events) > 1 else (NARROW, 3.5),
        (PHONE, 5.6) if len(events) > 1 else None,
    )


WHEN: dict[str, str] = {
    Event.BEFORE_BOUNDARY: "before the {}, its method not yet applied",
    Event.BOUNDARY: "before the {}, its method applied",
    Event.PHASE_START: "before the first update of the {}",
    Event.PHASE_END: "at the end of the {}",
}
"""Events at which diagnostics are taken, in the order of time, with their words."""
