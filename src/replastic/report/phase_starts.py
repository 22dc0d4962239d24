"""Measures at the start of each phase, before its first update: a panel for each, beside the score at its end."""

from __future__ import annotations

from typing import Any

from replastic.records import Event
from replastic.report import axes, scales, series, style, words
from replastic.report.plot import PHONE, WIDE, Plot, plot, subplots
from replastic.report.series import Series
from replastic.report.tables import Table

ACROSS, ACROSS_NARROW = 3, 1


def panels(table: Table) -> list[Plot]:
    """One plot of what is said to foretell a phase, where runs took two such measures or more."""
    experiment = table.experiment
    shown, label = experiment.shown, experiment.shown.phase_label
    keys = [key for key in shown.curves if key in experiment.keys(Event.PHASE_START)]
    if len(keys) < 2:
        return []
    measures = {key: words.measure(key) for key in keys}
    drawn: dict[str, list[Series]] = {
        shown.score: series.over_phases(experiment, shown.score),
        **{key: series.over_phases(experiment, key, Event.PHASE_START) for key in keys},
    }
    titles = {shown.score: shown.score_label, **{key: measure.label for key, measure in measures.items()}}
    styles = style.lines(table)
    front = {key: [one for one in lines if styles[one.method].front] or lines for key, lines in drawn.items()}
    logarithmic = {
        key: scales.is_logarithmic([one.values for one in lines], asked=key in measures and measures[key].logarithmic)
        for key, lines in front.items()
    }

    def fill(figure: Any, narrow: bool) -> None:
        columns = ACROSS_NARROW if narrow else ACROSS
        grid = subplots(figure, len(drawn), columns)
        for ax, (key, lines) in zip(grid, drawn.items(), strict=True):
            axes.curves(ax, lines, table)
            axes.name(ax, label if ax in grid[-columns:] else "", "")
            axes.frame(ax, front[key], logarithmic=logarithmic[key])  # a grey line that explodes may leave the panel
            ax.set_title(axes.wrapped(titles[key], 40), fontsize=9, loc="left", color=axes.SOFT)
        axes.legend_below(figure, words.labels(experiment.methods), styles, narrow)

    scale = " Some axes are logarithmic." if any(logarithmic.values()) else ""
    return [
        plot(
            "phase_starts",
            f"At the start of each {label}",
            f"{shown.score_label}, and measures before the first update of each {label}, one line per method. "
            + ". ".join(f"{titles[key]}: {axes.ends(table, lines)}" for key, lines in drawn.items()),
            f"Mean over seeds: the score at the end of each {label}, and measures before its first update.{scale} "
            f"{axes.BAND}{style.behind(table)}",
            fill,
            (WIDE, 0.8 + 2.1 * -(-len(drawn) // ACROSS)),
            (PHONE, 0.9 + 2.1 * len(drawn)),
        )
    ]
