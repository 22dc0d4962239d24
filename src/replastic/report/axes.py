"""Parts of a plot: curves with bands and labels at their ends, dots with whiskers, plain axes."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from replastic.extras import require
from replastic.report import scales, style, words
from replastic.report.series import Series
from replastic.report.statistics import INTERVAL, Estimate
from replastic.report.tables import Table

INK, SOFT, RULE = "#1d2129", "#5c6470", "#dfe2e8"
"""Colours of text, quiet text and rules. The page replaces them in dark mode."""
LABEL_GAP = 18.0
"""Points between two labels, for axes that fill their share of the figure's height."""
LABEL_WIDTH, LABEL_LINES = 28, 4
"""Characters in one line of a method's label beside a row of dots, and most lines."""
FEW_SEEDS = 3
"""Up to this many seeds, each is a full dot. The interval of two is 9 times their spread and would hide the plot."""
TIE = 0.003
"""Curves whose points are closer than this share of all values lie on each other."""
DASHES = (0, (3, 2.5))
"""Line of a curve that lies on another, so that both are seen."""
BESIDE = 0.075
"""Inches between the seeds of a row and its interval."""
GAP = 0.24
"""Inches above the first control."""
BAND = (
    f"The band is the {INTERVAL} over seeds, cut off at the frame; with fewer than {FEW_SEEDS} seeds each seed is "
    "a thin line instead. A dashed line lies on another."
)


def curves(
    ax: Any,
    drawn: Sequence[Series],
    table: Table,
    *,
    emphasise: str = "",
    styles: Mapping[str, style.Line] | None = None,
) -> None:
    """One line per series, with the band of its interval. Main methods are in front, the others thin and grey.

    A line that lies on another is dashed.

    Args:
        ax: Axes to draw on.
        drawn: The series.
        table: The final table, which decides the styles.
        emphasise: The method that the plot is about. It is drawn in front, and all others grey.
        styles: Lines by method, where they are to be those of another table.
    """
    styles = style.lines(table) if styles is None else styles
    ax.locator_params(axis="x", integer=True)
    points = {x for one in drawn for x in one.x.tolist()}
    if len(points) == 1:
        ax.set_xlim(min(points) - 1, max(points) + 1)
    finite = np.concatenate([one.mean for one in drawn] or [np.zeros(0)])
    finite = finite[np.isfinite(finite)]
    close = TIE * float(np.ptp(finite)) if finite.size else 0.0
    for index, one in enumerate(drawn):
        look = styles.get(one.method, style.OTHER)
        front = one.method == emphasise if emphasise else look.front
        colour, width = look.colour, look.width
        if emphasise:
            colour = (look.colour if look.front else INK) if front else style.MUTED
            width = max(look.width, 1.6) if front else 1.6
        ax.plot(
            one.x,
            one.mean,
            color=colour,
            linewidth=width,
            linestyle=DASHES if any(_on(one, other, close) for other in drawn[:index]) and front else "-",
            marker="o" if len(one.x) <= 12 and front else None,
            markersize=4,
            zorder=3 if front else 2,
            solid_capstyle="round",
        )
        if front and len(one.values) >= FEW_SEEDS:
            ax.fill_between(one.x, one.low, one.high, color=colour, alpha=0.16, linewidth=0, zorder=1)
        elif front and len(one.values) > 1:
            ax.plot(one.x, one.values.T, color=colour, linewidth=0.8, alpha=0.5, zorder=1)


def _on(one: Series, other: Series, close: float) -> bool:
    """Whether at least half of the points of a curve lie on another."""
    _, here, there = np.intersect1d(one.x, other.x, return_indices=True)
    return bool(here.size and (np.abs(one.mean[here] - other.mean[there]) <= close).mean() >= 0.5)


def dots(
    ax: Any,
    table: Table,
    estimates: Sequence[Estimate | None],
    *,
    zero: bool = False,
    ticks: int = 6,
    scale: scales.Scale = "linear",
) -> None:
    """One line per row of the table, from the top: the mean with its interval, and beside it the single seeds.

    With few seeds these are full dots and the mean is a line across its interval. An interval that is much wider than
    all seeds is cut off at the frame.
    """
    styles = style.lines(table)
    places, height = _places(table)
    few = max((e.n for e in estimates if e is not None), default=0) <= FEW_SEEDS
    for y, row, estimate in zip(places, table.rows, estimates, strict=True):
        if estimate is None or not np.isfinite(estimate.mean):
            continue
        look = styles[row.method]
        colour = look.colour if look.front else SOFT
        several = len(estimate.values) > 1
        bar, seeds = (y + BESIDE, y - 0.02) if few and several else (y - 0.02, y + BESIDE)
        if estimate.low is not None and estimate.high is not None:
            width = 1.2 if few else 2.0
            ax.plot([estimate.low, estimate.high], [bar, bar], color=colour, linewidth=width, zorder=2)
        if several:
            ax.scatter(
                estimate.values,
                [seeds] * len(estimate.values),
                s=30 if few else 12,
                color=colour,
                alpha=0.8 if few else 0.45,
                linewidth=0,
                zorder=3,
            )
        if few and several:
            ax.scatter([estimate.mean], [bar], s=50, marker="|", color=colour, zorder=3, linewidth=1.6)
        else:
            ax.scatter([estimate.mean], [bar], s=34, color=colour, zorder=3, linewidth=0)
    if zero:
        ax.axvline(0, color=INK, linewidth=1, zorder=0)
    scales.limit(ax, estimates, scale, zero=zero, ticks=ticks)
    first = next((place for place, row in zip(places, table.rows, strict=True) if row.control), None)
    if first is not None and not table.rows[0].control:
        top = first - GAP - 0.1
        ax.axhline(top + 0.02, color=RULE, linewidth=0.8, zorder=0)
        ax.text(0.0, top + 0.05, "controls", transform=ax.get_yaxis_transform(), fontsize=8, color=SOFT, va="top")
    ax.set_yticks(places, [wrapped(row.label, LABEL_WIDTH) for row in table.rows])
    ax.set_ylim(height, 0)


def rows_height(table: Table) -> float:
    """Height of the rows of `dots` in inches. A label of several lines needs more."""
    return _places(table)[1]


def wrapped(label: str, width: int, lines: int = LABEL_LINES) -> str:
    """A label in at most that many lines of at most `width` characters, broken between words or options."""
    spaced = re.sub(r"([:,])(?=\S)", r"\1 ", label)
    return "\n".join(textwrap.wrap(spaced, width, max_lines=lines, placeholder=" \u2026"))


def _places(table: Table) -> tuple[list[float], float]:
    """Centre of each row from the top, and the height of all rows, in inches."""
    places, height, controls = [], 0.1, bool(table.rows and table.rows[0].control)
    for row in table.rows:
        if row.control and not controls:
            height, controls = height + GAP, True
        lines = wrapped(row.label, LABEL_WIDTH).count("\n") + 1
        size = 0.15 + 0.15 * lines
        places.append(height + size / 2)
        height += size
    return places, height + 0.1


def name(ax: Any, x: str, y: str, *, grid: str = "y") -> None:
    """Name the axes, with a long name in two lines, and draw them in quiet colours."""
    ax.set_xlabel(wrapped(x, 44, 3), color=SOFT)
    ax.set_ylabel(wrapped(y, 34), color=SOFT)
    ax.grid(axis=grid, color=RULE, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(which="both", colors=SOFT, labelsize=9.5, length=0)
    for spine in ax.spines.values():
        spine.set_color(RULE)


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Positions at least `gap` apart, in the order of `wanted`, with the least squared distance to `wanted`.

    Neighbours that are too close are merged into a block around their common mean, until no blocks touch (pool
    adjacent violators).
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    blocks: list[list[float]] = []
    for rank, i in enumerate(order):
        blocks.append([wanted[i] - rank * gap, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, n), (b, m) = blocks[-2:]
            blocks[-2:] = [[(a * n + b * m) / (n + m), n + m]]
    flat = [centre for centre, size in blocks for _ in range(int(size))]
    placed = [0.0] * len(wanted)
    for rank, i in enumerate(order):
        placed[i] = flat[rank] + rank * gap
    return placed


def frame(ax: Any, drawn: Sequence[Series], *, logarithmic: bool) -> None:
    """Set scale and limits by the single seeds, so that a wide interval of few seeds does not flatten the picture."""
    scales.frame(ax, [one.values for one in drawn], logarithmic=logarithmic)


def label_ends(ax: Any, drawn: Sequence[Series], table: Table) -> None:
    """Write the names of the main methods beside the ends of their lines. Names that would overlap are moved apart.

    Call it last, since it needs the scale and the limits.
    """
    names = words.labels(table.experiment.methods)
    styles = style.lines(table)
    ends = [(one, one.mean[np.isfinite(one.mean)]) for one in drawn if styles[one.method].front]
    ends = [(one, means) for one, means in ends if means.size]
    to_share = ax.transData + ax.transAxes.inverted()
    wanted = [float(to_share.transform((one.x[-1], means[-1]))[1]) for one, means in ends]
    rows = ax.get_subplotspec().get_gridspec().nrows
    gap = LABEL_GAP * rows / (ax.figure.get_figheight() * 72)
    for (one, _), share in zip(ends, spread(wanted, gap), strict=True):
        ax.annotate(
            wrapped(names[one.method], LABEL_WIDTH, 1),
            (1.0, share),
            xycoords="axes fraction",
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=styles[one.method].colour,
            fontweight="bold",
            annotation_clip=False,
        )


def legend_below(figure: Any, names: Mapping[str, str], styles: Mapping[str, style.Line], narrow: bool) -> None:
    """One legend for all panels of a figure: the methods in front, by their names."""
    lines = require("matplotlib.lines", "report", "drawing curves").Line2D
    front = [method for method in names if method in styles and styles[method].front]
    handles = [lines([], [], color=styles[method].colour, linewidth=styles[method].width) for method in front]
    labels = [wrapped(names[method], LABEL_WIDTH, 1) for method in front]
    where = {"loc": "outside lower center", "ncols": 2 if narrow else 4}
    legend = figure.legend(handles, labels, frameon=False, fontsize=9 if narrow else 10, **where)
    for text in legend.get_texts():
        text.set_color(INK)


def ends(table: Table, drawn: Sequence[Series]) -> str:
    """First and last value of each main line, for the alternative text."""
    labels = words.labels(table.experiment.methods)
    front = style.lines(table)
    return "; ".join(
        f"{labels[one.method]} from {words.number(one.mean[0])} to {words.number(one.mean[-1])}"
        for one in drawn
        if front[one.method].front
    )
