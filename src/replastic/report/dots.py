"""Plots with a dot and its interval for each method: the final scores, and the measures just after the boundary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from replastic.report import axes, words
from replastic.report.plot import NARROW, WIDE, Plot, plot, subplots
from replastic.report.sheets import Sheet
from replastic.report.statistics import INTERVAL, Estimate
from replastic.report.tables import Table


def final(table: Table) -> Plot:
    """The final score, and its difference to the reference."""
    shown = table.experiment.shown
    paired = any(row.difference is not None for row in table.rows)
    height = axes.rows_height(table)

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
        f"{shown.score_label} after {shown.phase_label} {table.experiment.phases} with {INTERVAL}s: "
        + "; ".join(f"{row.label} {words.number(row.final.mean)} ({words.interval(row.final)})" for row in table.rows),
        f"Score: mean with its {INTERVAL}, faint dots are single seeds."
        + (" Difference: an interval that crosses the line at zero settles nothing." if paired else ""),
        fill,
        (WIDE, 0.93 + height),
        (NARROW, (1 + paired) * (0.63 + height)),
    )


def just_after(table: Table, sheet: Sheet) -> Plot:
    """One small plot for every measure of the sheet, with methods in the order of the final table."""
    count, across, narrow_across = len(sheet.columns), 4, 2
    estimates = {column.name: _by_row(table, sheet, column.name) for column in sheet.columns}
    height = axes.rows_height(table)
    logarithmic = [column.head for column in sheet.columns if axes.is_stretched(estimates[column.name])]

    def fill(figure: Any, narrow: bool) -> None:
        columns = narrow_across if narrow else across
        for index, (ax, column) in enumerate(zip(subplots(figure, count, columns), sheet.columns, strict=True)):
            axes.dots(ax, table, estimates[column.name], zero=column.name == "drop", ticks=3)
            axes.name(ax, "", "", grid="x")
            ax.margins(x=0.06)
            axes.stretch(ax, estimates[column.name])
            ax.set_title(column.head, fontsize=10, loc="left", color=axes.SOFT)
            ax.tick_params(labelleft=index % columns == 0)

    scale = f" Logarithmic scale: {words.listing(logarithmic)}." if logarithmic else ""
    return plot(
        sheet.name,
        sheet.title,
        f"{sheet.title}, one dot with its {INTERVAL} per method: "
        + "; ".join(f"{column.head} {_range(estimates[column.name])}" for column in sheet.columns),
        f"{sheet.note}{scale} Methods in the order of the final table.",
        fill,
        (WIDE, (0.62 + height) * -(-count // across)),
        (NARROW, (0.62 + height) * -(-count // narrow_across)),
    )


def _by_row(table: Table, sheet: Sheet, name: str) -> list[Estimate | None]:
    return [sheet.rows.get(row.method, {}).get(name) for row in table.rows]


def _range(estimates: Sequence[Estimate | None]) -> str:
    means = [e.mean for e in estimates if e is not None and math.isfinite(e.mean)]
    return f"from {words.number(min(means))} to {words.number(max(means))}" if means else "not finite"
