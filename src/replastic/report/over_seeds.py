"""The statistics over runs and tasks that a benchmark asks for: a table, and the plot of performance profiles."""

from __future__ import annotations

from typing import Any

import numpy as np

from replastic.report import aggregates, axes, style, words
from replastic.report.games import Games
from replastic.report.plot import PHONE, WIDE, Plot, plot
from replastic.report.sheets import Column, Sheet
from replastic.report.statistics import INTERVAL, Estimate

NAME = "statistics"
"""Name of the table, and of the plot."""
SOURCE = "https://arxiv.org/abs/2108.13264"
LEVELS = 200
"""Points of a performance profile."""
FEW = 5
"""With fewer runs a bootstrap interval is too narrow, and the page says so."""


def sheet(games: Games) -> Sheet:
    """Interquartile mean and probability of improvement by method, as the benchmark asks; without rows if for none."""
    shown, reference = games.first.experiment.shown, games.first.reference
    columns = []
    if "iqm" in shown.statistics:
        columns.append(
            Column("iqm", "interquartile mean", f"Mean of the middle half of all scores{_scale(games)}", SOURCE)
        )
    if "improvement" in shown.statistics and reference is not None:
        meaning = (
            f"Probability that a run scores better than one of {reference} on the same task; a tie counts one half"
        )
        columns.append(Column("improvement", f"P(better than {reference})", meaning, SOURCE))
    rows = {method: _row(games, method, {column.name for column in columns}) for method in games.methods}
    labels = words.labels(games.methods)
    kept = {method: row for method, row in rows.items() if row}
    return Sheet(NAME, "Over all runs and tasks", _note(games), tuple(columns), kept, labels)


def profiles(games: Games) -> list[Plot]:
    """The performance profiles, one curve per method; none unless the benchmark asks for them."""
    shown = games.first.experiment.shown
    found = {method: scores.values for method in games.methods if (scores := games.scores(method)) is not None}
    known = np.concatenate([np.ravel(values) for values in found.values()]) if found else np.zeros(0)
    if "profile" not in shown.statistics or not known.size or not np.isfinite(known).all():
        return []
    pad = 0.02 * float(np.ptp(known)) or 0.5
    levels = np.linspace(known.min() - pad, known.max() + pad, LEVELS)
    drawn = {method: aggregates.profile(values, levels) for method, values in found.items()}
    looks = style.lines(games.first)
    labels = words.labels(games.methods)
    middle = {labels[method]: float(values.mean()) for method, values in found.items()}

    def fill(figure: Any, narrow: bool) -> None:
        ax = figure.add_subplot()
        for method, (share, low, high) in drawn.items():
            look = looks.get(method, style.OTHER)
            ax.plot(levels, share, color=look.colour, linewidth=look.width, zorder=3 if look.front else 2)
            if look.front and low is not None and high is not None:
                ax.fill_between(levels, low, high, color=look.colour, alpha=0.16, linewidth=0, zorder=1)
        axes.name(ax, _axis(games), "share of runs and tasks with a better score")
        ax.set_ylim(-0.02, 1.02)
        ax.set_xlim(levels[0], levels[-1])
        if not shown.higher_is_better and not games.normalised:
            ax.xaxis.set_major_formatter(lambda value, _: f"{-value:g}")
        axes.legend_below(figure, labels, looks, narrow)

    said = "; ".join(f"{label} mean {words.number(value)}" for label, value in middle.items())
    return [
        plot(
            NAME,
            "Performance profiles",
            f"Share of runs and tasks whose score is better than each level, one curve per method. {said}",
            f"A curve that lies above another everywhere is better. The band is the pointwise {INTERVAL} of the "
            "stratified bootstrap.",
            fill,
            (WIDE, 4.5),
            (PHONE, 4.4),
        )
    ]


def _row(games: Games, method: str, wanted: set[str]) -> dict[str, Estimate]:
    scores, table = games.scores(method), games.first
    row: dict[str, Estimate] = {}
    if scores is None:
        return row
    if "iqm" in wanted:
        row["iqm"] = games.natural(aggregates.iqm(scores.values))
    reference = games.scores(table.reference) if table.reference is not None else None
    if "improvement" in wanted and method != table.reference and reference is not None:
        row["improvement"] = aggregates.improvement(reference.values, scores.values)
    return row


def _note(games: Games) -> str:
    found = {method: scores for method in games.methods if (scores := games.scores(method)) is not None}
    one = next(iter(found.values()), None)
    if one is None:
        return ""
    _, count, tasks = one.values.shape
    phase = games.first.experiment.shown.phase_label
    over = [words.count(count, "game")] * (count > 1) + [words.count(tasks, phase)] * (tasks > 1)
    of = f" x {' x '.join(over)}" if over else ""
    few = min(len(scores.seeds) for scores in found.values())
    note = f"Over {words.count(few, 'seed')}{of}, with the {INTERVAL} of the stratified bootstrap over seeds."
    if few < FEW:
        note += f" With fewer than {FEW} seeds such an interval is too narrow."
    return note


def _scale(games: Games) -> str:
    """The scale of scores, for the explanation of a column."""
    return ", each between the lowest (0) and the highest (1) of all these runs on its task" if games.normalised else ""


def _axis(games: Games) -> str:
    return (
        "score between the lowest and the highest on its task"
        if games.normalised
        else (games.first.experiment.shown.score_label)
    )
