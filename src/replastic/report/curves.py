"""The plots of a report: scores with their intervals, and what the diagnostics say, as SVG and PNG."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from replastic.extras import require
from replastic.report import axes, series, style, words
from replastic.report.series import Series
from replastic.report.tables import Table

WIDE, NARROW = 9.2, 5.6
"""Inches at 100 points each: a plot over the whole column, and one of two beside each other."""
SETTINGS = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Helvetica", "Arial", "sans-serif"],
    "font.size": 10.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "replastic",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
}


@dataclass(frozen=True)
class Plot:
    """One drawn figure with the words that go with it."""

    name: str
    """File stem."""
    title: str
    alt: str
    """What the picture shows, for readers who do not see it."""
    caption: str
    svg: str
    png: bytes
    wide: bool


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
    shown = table.experiment.shown
    curves = series.over_phases(table.experiment, shown.score)

    def fill(figure: Any) -> None:
        ax = figure.add_subplot()
        _panel(ax, curves, table, shown.phase_label, shown.score_label)

    return _plot(
        "score",
        f"Score over {shown.phase_label}s",
        f"{shown.score_label} over {words.count(table.experiment.phases, shown.phase_label)}, one line per method: "
        + _ends(table, curves),
        f"Mean over seeds at the end of each {shown.phase_label}; the band is the 95% t interval over seeds, cut off "
        "at the frame.",
        fill,
        (WIDE, 4.3),
    )


def _learning(table: Table) -> Plot:
    shown = table.experiment.shown
    curves = series.over_updates(table.experiment, shown.score)

    def fill(figure: Any) -> None:
        ax = figure.add_subplot()
        _panel(ax, curves, table, "optimizer updates", shown.score_label)

    return _plot(
        "learning",
        f"Within the {shown.phase_label}s",
        f"{shown.score_label} over optimizer updates, one line per method: " + _ends(table, curves),
        "Mean over seeds at every evaluation, with the 95% t interval.",
        fill,
        (WIDE, 4.3),
    )


def _final(table: Table) -> Plot:
    shown = table.experiment.shown
    paired = any(row.difference is not None for row in table.rows)

    def fill(figure: Any) -> None:
        left, *rest = figure.subplots(1, 2 if paired else 1, squeeze=False)[0]
        axes.dots(left, table, [row.final for row in table.rows], seeds=True)
        axes.name(left, shown.score_label, "", grid="x")
        for ax in rest:
            axes.dots(ax, table, [row.difference for row in table.rows], zero=True)
            axes.name(ax, f"difference to {table.reference}, same seeds", "", grid="x")
            ax.tick_params(labelleft=False)

    return _plot(
        "final",
        f"After the last {shown.phase_label}",
        f"{shown.score_label} after {shown.phase_label} {table.experiment.phases} with 95% intervals: "
        + "; ".join(f"{row.label} {words.number(row.final.mean)} ({words.interval(row.final)})" for row in table.rows),
        "Left: mean with its 95% interval, faint dots are single seeds."
        + (" Right: paired difference; an interval that crosses the line at zero settles nothing." if paired else ""),
        fill,
        (WIDE, 1.2 + 0.27 * len(table.rows)),
    )


def _each(table: Table) -> Plot:
    shown = table.experiment.shown
    curves = {c.method: c for c in series.over_phases(table.experiment, shown.score)}
    others = [row for row in table.rows if row.method != table.reference]
    columns = 5
    count = -(-len(others) // columns)

    def fill(figure: Any) -> None:
        grid = figure.subplots(count, columns, sharex=True, sharey=True, squeeze=False)
        for ax in grid.flat[len(others) :]:
            ax.set_visible(False)
        for ax, row in zip(grid.flat, others, strict=False):
            pair = [curves[m] for m in (table.reference, row.method) if m is not None]
            axes.curves(ax, pair, table, emphasise=row.method)
            axes.name(ax, "", "")
            ax.set_title(row.label, fontsize=9, loc="left", color=axes.INK)
        axes.frame(grid.flat[0], list(curves.values()))
        figure.supxlabel(shown.phase_label, fontsize=10, color=axes.SOFT)
        figure.supylabel(shown.score_label, fontsize=10, color=axes.SOFT)

    against = f", {table.reference} in grey" if table.reference else ""
    return _plot(
        "methods",
        "Method by method",
        f"One small plot per method of {shown.score_label} over {shown.phase_label}s{against}.",
        f"Best final score first{against}. All share their axes.",
        fill,
        (WIDE, 0.7 + 1.35 * count),
    )


def _diagnostic(table: Table, key: str) -> Plot:
    experiment = table.experiment
    events = series.events_of(experiment, key)[:2]
    drawn = {event: series.over_phases(experiment, key, event) for event in events}
    measure = words.measure(key)
    together = [one for event in events for one in drawn[event]]

    def fill(figure: Any) -> None:
        grid = figure.subplots(1, len(events), sharey=True, squeeze=False)[0]
        for ax, event in zip(grid, events, strict=True):
            axes.curves(ax, drawn[event], table)
            axes.name(ax, experiment.shown.phase_label, measure.label if ax is grid[0] else "")
            if len(events) > 1:
                ax.set_title(WHEN[event], fontsize=10, loc="left", color=axes.SOFT)
        axes.frame(grid[0], together)
        axes.label_ends(grid[-1], drawn[events[-1]], table)

    scale = " Logarithmic scale." if axes.spans_decades([one.values for one in together]) else ""
    return _plot(
        measure.name.replace("/", "_"),
        measure.label,
        f"{measure.label} over {experiment.shown.phase_label}s, one line per method: " + _ends(table, drawn[events[0]]),
        f"{measure.summary} {' and '.join(WHEN[e] for e in events).capitalize()}.{scale}".strip(),
        fill,
        (WIDE if len(events) > 1 else NARROW, 3.5),
    )


WHEN = {
    "before_boundary": "just before the boundary",
    "boundary": "right after the boundary",
    "evaluation": "during the phase",
    "phase_end": "at the end of the phase",
}


def _panel(ax: Any, drawn: list[Series], table: Table, x: str, y: str) -> None:
    axes.curves(ax, drawn, table)
    axes.name(ax, x, y)
    axes.frame(ax, drawn)
    axes.label_ends(ax, drawn, table)


def _ends(table: Table, curves: list[Series]) -> str:
    """First and last value of each main line, for the alternative text."""
    labels = words.labels(table.experiment.methods)
    front = style.lines(table)
    return "; ".join(
        f"{labels[c.method]} from {words.number(c.mean[0])} to {words.number(c.mean[-1])}"
        for c in curves
        if front[c.method].front
    )


def _plot(
    name: str, title: str, alt: str, caption: str, fill: Callable[[Any], None], size: tuple[float, float]
) -> Plot:
    """Draw on a figure of its own and keep it as SVG (no date, stable ids) and PNG."""
    matplotlib = require("matplotlib", "report", "drawing curves")
    figures = require("matplotlib.figure", "report", "drawing curves")
    with matplotlib.rc_context(SETTINGS):
        figure = figures.Figure(figsize=size, layout="constrained")
        fill(figure)
        svg, png = io.StringIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None, "Title": title})
        figure.savefig(png, format="png", dpi=200, metadata={"Software": None, "Description": alt})
    return Plot(name, title, alt, caption, svg.getvalue(), png.getvalue(), size[0] == WIDE)
