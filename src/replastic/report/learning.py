"""Learning curves within the phases: a panel for each game, as in figure 4 of the FIRE paper, with its boundaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from replastic.records import Event, metric_name
from replastic.report import axes, scales, series, style, words
from replastic.report.experiment import Experiment
from replastic.report.games import Games
from replastic.report.plot import PHONE, WIDE, Plot, plot, subplots
from replastic.report.safe import stem
from replastic.report.series import Series

POINTS = 500
"""Largest number of evaluations in one curve. A screen shows no more, and the page stays small."""
LINES = 12
"""Most boundaries that are marked: more lines would hide the curves."""
DASHES = (0, (4, 3))


def curves(games: Games) -> list[Plot]:
    """The score within the phases, and apart from it each further score that was taken there, such as training returns.

    Games without evaluations inside their phases have no panel.
    """
    shown = games.first.experiment.shown
    further = dict.fromkeys(key for table in games.tables.values() for key in table.experiment.further_scores)
    found = [_plot(games, shown.score, "learning", shown.score_label)]
    for key in further:
        label = shown.label(key)
        found.append(_plot(games, key, f"learning_{stem(metric_name(key))}", label))
    return [one for one in found if one is not None]


def _plot(games: Games, key: str, name: str, label: str) -> Plot | None:
    drawn = {game: series.over_axis(table.experiment, key) for game, table in games.tables.items()}
    drawn = {game: lines for game, lines in drawn.items() if lines}
    if not drawn:
        return None
    stride = -(-max(len(one.x) for lines in drawn.values() for one in lines) // POINTS)
    drawn = {game: [one.every(stride) for one in lines] for game, lines in drawn.items()}
    taken = "every evaluation" if stride == 1 else f"one evaluation in {stride}"
    shown, several = games.first.experiment.shown, len(drawn) > 1
    logarithmic = {game: scales.is_logarithmic([one.values for one in lines]) for game, lines in drawn.items()}
    marks = {game: boundaries(games.tables[game].experiment) for game in drawn}

    across, styles = 3 if len(drawn) > 2 else 2, style.lines(games.first)

    def fill(figure: Any, narrow: bool) -> None:
        columns = 1 if narrow else across
        grid = subplots(figure, len(drawn), columns)
        for ax, (game, lines) in zip(grid, drawn.items(), strict=True):
            table = games.tables[game]
            axes.curves(ax, lines, table, styles=styles)
            axes.name(ax, shown.axis_label, label if ax in grid[::columns] else "")
            axes.frame(ax, lines, logarithmic=logarithmic[game])
            _mark(ax, marks[game], table.experiment)
            if game and not shown.phase_names:
                ax.set_title(axes.wrapped(game, 40), fontsize=10, loc="left", color=axes.SOFT)
            if several:
                ax.locator_params(axis="x", nbins=4)
            else:
                axes.label_ends(ax, lines, table)
        if several:
            axes.legend_below(figure, words.labels(games.methods), styles, narrow)

    rows = -(-len(drawn) // across)
    title = f"Within the {shown.phase_label}s" if key == shown.score else f"{label}, within the {shown.phase_label}s"
    return plot(
        name,
        title,
        f"{label} over {shown.axis_label}, one line per method: {_ends(games, drawn)}",
        f"Mean over seeds at {taken}. {axes.BAND}{_said(any(logarithmic.values()), marks, shown.phase_label)}"
        f"{_behind(games)}",
        fill,
        (WIDE, 0.6 + 2.9 * rows) if several else (WIDE, 4.3),
        (PHONE, 0.9 + 2.9 * len(drawn)) if several else (PHONE, 3.6),
    )


def boundaries(experiment: Experiment) -> list[float]:
    """Where on the axis the methods act: the boundaries from the first with methods on; none if there are too many."""
    places: dict[int, list[float]] = {}
    for run in experiment:
        for record in run.records:
            if record["event"] == Event.BOUNDARY and max(1, experiment.first) <= record["phase"] < experiment.phases:
                places.setdefault(record["phase"], []).append(record[experiment.shown.axis])
    return [float(np.mean(of)) for _, of in sorted(places.items())] if len(places) <= LINES else []


def _mark(ax: Any, places: Sequence[float], experiment: Experiment) -> None:
    """Dashed lines at the boundaries, and between them the names of the phases where these have names."""
    for place in places:
        ax.axvline(place, color=axes.INK, linewidth=1.1, linestyle=DASHES, zorder=1.5)
    names = experiment.shown.phase_names
    if not names or len(places) != experiment.phases - 1:
        return
    ends = [ax.get_xlim()[0], *places, ax.get_xlim()[1]]
    for name, left, right in zip(names, ends, ends[1:], strict=False):
        ax.text(
            *((left + right) / 2, 1.0, axes.wrapped(name.partition(":")[0], 24, 1)),
            transform=ax.get_xaxis_transform(),
            fontsize=8.5,
            color=axes.SOFT,
            ha="center",
            va="bottom",
        )


def _said(logarithmic: bool, marks: Mapping[str, Sequence[float]], label: str) -> str:
    """Sentences on what is not a curve."""
    scale = " Logarithmic axis." if logarithmic else ""
    return scale + (
        f" A dashed vertical line is the boundary of a {label}, where methods act." if any(marks.values()) else ""
    )


def _ends(games: Games, drawn: Mapping[str, Sequence[Series]]) -> str:
    """First and last value of each main line, for the alternative text."""
    said = (f"{f'{game}: ' if game else ''}{axes.ends(games.tables[game], lines)}" for game, lines in drawn.items())
    return "; ".join(said)


def _behind(games: Games) -> str:
    """A sentence on the thin grey lines; of several games their plots are on the pages of the games."""
    if len(games.tables) == 1:
        return style.behind(games.first)
    others = sum(not line.front for line in style.lines(games.first).values())
    return f" Thin and grey: the other {words.count(others, 'method')}." if others else ""
