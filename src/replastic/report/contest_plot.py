"""The plot of the contest of diagnostics: a row for each diagnostic, a panel for each outcome."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from replastic.disk import make_folder, write_bytes, write_text
from replastic.report import axes, words
from replastic.report.contest import PLOT, POOLED, WITHIN, contest
from replastic.report.experiment import Experiment
from replastic.report.plot import PHONE, WIDE, Plot, plot, subplots
from replastic.report.sheets import Sheet
from replastic.report.statistics import INTERVAL


def write_contest(experiment: Experiment, folder: str | Path) -> list[Sheet]:
    """Write ``tables/contest_*.{md,csv}`` and ``curves/contest.{svg,png}`` into a folder, and return the tables.

    Raises:
        UserError: See `contest`; or the folder cannot be written.
        MissingExtraError: matplotlib or scipy is not installed.
    """
    found, folder = contest(experiment), Path(folder)
    figure = draw(found)
    for child in (folder / "tables", folder / "curves"):
        make_folder(child)
    for sheet in found:
        write_text(folder / "tables" / f"{sheet.name}.md", sheet.to_markdown())
        write_text(folder / "tables" / f"{sheet.name}.csv", sheet.to_csv())
    write_text(folder / "curves" / f"{PLOT}.svg", figure.svg)
    write_bytes(folder / "curves" / f"{PLOT}.png", figure.png)
    return found


def draw(found: Sequence[Sheet]) -> Plot:
    """Pooled correlations with their intervals, those within the same task, and those of single methods."""
    order = list(dict.fromkeys(name for sheet in found for name in sheet.rows))
    heads = {name: head for sheet in found for name, head in sheet.labels.items()}
    height = 0.9 + 0.42 * len(order)

    def fill(figure: Any, narrow: bool) -> None:
        grid = subplots(figure, len(found), 1 if narrow else len(found), sharex=True)
        for ax, sheet in zip(grid, found, strict=True):
            _panel(ax, sheet, order)
            labels = [axes.wrapped(heads[name], axes.LABEL_WIDTH) for name in order]
            ax.set_yticks(range(len(order)), labels)
            ax.tick_params(labelleft=narrow or ax is grid[0])

    best = "; ".join(_best(sheet) for sheet in found)
    return plot(
        PLOT,
        "Contest of diagnostics",
        f"Rank correlations of diagnostics at the start of a task with its outcome. Best pooled: {best}.",
        f"Full dot: pooled, with its {INTERVAL} over seeds. Ring: within the same task. Small dots: single methods. In "
        "brackets is the side on which networks are said to be more plastic.",
        fill,
        (WIDE, height),
        (PHONE, height * len(found)),
    )


def _panel(ax: Any, sheet: Sheet, order: Sequence[str]) -> None:
    for place, name in enumerate(order):
        row = sheet.rows.get(name, {})
        single = [one.mean for column, one in row.items() if column not in (POOLED, WITHIN)]
        ax.scatter(single, [place + 0.18] * len(single), s=12, color=axes.SOFT, alpha=0.5, linewidth=0, zorder=2)
        if WITHIN in row:
            ax.scatter([row[WITHIN].mean], [place], s=34, facecolor="#ffffff", edgecolor=axes.INK, zorder=3)
        if POOLED in row:
            one = row[POOLED]
            if one.low is not None and one.high is not None:
                ax.plot([one.low, one.high], [place, place], color=axes.INK, linewidth=2.0, zorder=2)
            ax.scatter([one.mean], [place], s=34, color=axes.INK, zorder=4, linewidth=0)
    ax.axvline(0, color=axes.INK, linewidth=1, zorder=0)
    ax.set_xlim(-1.05, 1.05)
    ax.set_xticks([-1, -0.5, 0, 0.5, 1])
    ax.set_ylim(len(order) - 0.5, -0.5)
    axes.name(ax, "rank correlation", "", grid="x")
    ax.set_title(axes.wrapped(sheet.title, 30), fontsize=10, loc="left", color=axes.SOFT)


def _best(sheet: Sheet) -> str:
    name, row = next(iter(sheet.rows.items()))
    return f"{sheet.labels[name]} {words.number(row[POOLED].mean, signed=True) if POOLED in row else words.MISSING}"
