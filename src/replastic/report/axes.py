"""Parts of a plot: curves with bands and labels at their ends, dots with whiskers, plain axes."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from replastic.report import measures, style, words
from replastic.report.experiment import Array
from replastic.report.series import Series
from replastic.report.statistics import Estimate
from replastic.report.tables import Table

INK, SOFT, RULE = "#1d2129", "#5c6470", "#dfe2e8"
"""Colours of text, quiet text and rules. The page replaces them in dark mode."""
LABEL_GAP = 18.0
"""Points between two labels, for axes that fill their share of the figure's height."""
LABEL_WIDTH = 28
"""Characters in one line of a method's label beside a row of dots."""
BAND_SEEDS = 3
"""Fewer seeds than this are drawn one by one. The interval of two is 9 times their spread and would hide the plot."""
DECADES = 50.0
"""A positive measure that spans more than this factor is drawn on a logarithmic scale."""


def curves(
    ax: Any,
    drawn: Sequence[Series],
    table: Table,
    *,
    emphasise: str = "",
) -> None:
    """One line per series, with the band of its interval. Main methods are in front, the others thin and grey.

    Args:
        ax: Axes to draw on.
        drawn: The series.
        table: The final table, which decides the styles.
        emphasise: A method to draw as if it were a main method.
    """
    styles = style.lines(table)
    ax.locator_params(axis="x", integer=True)
    points = {x for one in drawn for x in one.x.tolist()}
    if len(points) == 1:
        ax.set_xlim(min(points) - 1, max(points) + 1)
    for one in drawn:
        look = styles[one.method]
        front = look.front or one.method == emphasise
        colour = style.MAIN["interpolation"] if front and not look.front else look.colour
        marker = "o" if len(one.x) <= 12 and front else None
        ax.plot(
            one.x,
            one.mean,
            color=colour,
            linewidth=look.width if look.front else 1.6 if front else 0.8,
            marker=marker,
            markersize=4,
            zorder=3 if front else 2,
            solid_capstyle="round",
        )
        if front and len(one.values) >= BAND_SEEDS:
            ax.fill_between(one.x, one.low, one.high, color=colour, alpha=0.16, linewidth=0, zorder=1)
        elif front and len(one.values) > 1:
            ax.plot(one.x, one.values.T, color=colour, linewidth=0.8, alpha=0.5, zorder=1)


def dots(
    ax: Any,
    table: Table,
    estimates: Sequence[Estimate | None],
    *,
    seeds: bool = False,
    zero: bool = False,
    ticks: int = 6,
) -> None:
    """One line per row of the table, from the top: the mean with its interval and, with `seeds`, the single seeds."""
    styles = style.lines(table)
    experiment = table.experiment
    places, height = _places(table)
    for y, row, estimate in zip(places, table.rows, estimates, strict=True):
        if estimate is None or not np.isfinite(estimate.mean):
            continue
        look = styles[row.method]
        colour = look.colour if look.front else SOFT
        if estimate.low is not None and estimate.high is not None:
            ax.plot([estimate.low, estimate.high], [y, y], color=colour, linewidth=2, solid_capstyle="butt", zorder=2)
        if seeds:
            scores = list(measures.final_scores(experiment, row.method).values())
            ax.scatter(scores, [y] * len(scores), s=14, color=colour, alpha=0.35, linewidth=0, zorder=1)
        ax.scatter([estimate.mean], [y], s=34, color=colour, zorder=3, linewidth=0)
    if zero:
        ax.axvline(0, color=INK, linewidth=1, zorder=0)
    ax.locator_params(axis="x", nbins=ticks)
    ax.set_yticks(places, [wrapped(row.label, LABEL_WIDTH) for row in table.rows])
    ax.set_ylim(height, 0)


def rows_height(table: Table) -> float:
    """Height of the rows of `dots` in inches. A label of several lines needs more."""
    return _places(table)[1]


def is_stretched(estimates: Sequence[Estimate | None]) -> bool:
    """Whether dots need a logarithmic scale: none is negative, and the positive ones are far apart."""
    means = np.array([e.mean for e in estimates if e is not None and np.isfinite(e.mean)])
    return bool(means.size and means.min() >= 0 and spans_decades([means[means > 0]]))


def stretch(ax: Any, estimates: Sequence[Estimate | None]) -> None:
    """Give dots that need it a logarithmic scale. Its lowest decade is linear, so that zero has a place."""
    if is_stretched(estimates):
        powers = [math.log10(e.mean) for e in estimates if e is not None and e.mean > 0]
        low, high = math.floor(min(powers)), math.ceil(max(powers))
        ax.set_xscale("symlog", linthresh=10.0**low, linscale=0.5)
        ax.set_xlim(-0.3 * 10.0**low, 2.0 * 10.0**high)
        ax.set_xticks([0.0, *(10.0**power for power in range(low + 1, high + 1, -((low - high) // 3)))])


def wrapped(label: str, width: int) -> str:
    """A method's label in lines of about `width` characters, broken between its options."""
    return textwrap.fill(label, width, break_long_words=False)


def _places(table: Table) -> tuple[list[float], float]:
    """Centre of each row from the top, and the height of all rows, in inches."""
    places, height = [], 0.1
    for row in table.rows:
        lines = wrapped(row.label, LABEL_WIDTH).count("\n") + 1
        size = 0.12 + 0.15 * lines
        places.append(height + size / 2)
        height += size
    return places, height + 0.1


def name(ax: Any, x: str, y: str, *, grid: str = "y") -> None:
    """Name the axes, with a long name in two lines, and draw them in quiet colours."""
    ax.set_xlabel(x, color=SOFT)
    ax.set_ylabel(textwrap.fill(y, 34), color=SOFT)
    ax.grid(axis=grid, color=RULE, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.margins(x=0.02)
    ax.tick_params(which="both", colors=SOFT, labelsize=9.5, length=0)
    for spine in ax.spines.values():
        spine.set_color(RULE)


def spans_decades(values: Sequence[Array]) -> bool:
    """Whether these values need a logarithmic scale: all are positive, and they are far apart."""
    finite = np.concatenate([v[np.isfinite(v)] for v in values]) if values else np.array([])
    return bool(finite.size and finite.min() > 0 and finite.max() / finite.min() > DECADES)


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


def frame(ax: Any, drawn: Sequence[Series]) -> None:
    """Set scale and limits by the single seeds, so that a wide interval of few seeds does not flatten the picture."""
    finite = np.concatenate([one.values[np.isfinite(one.values)] for one in drawn])
    if not finite.size:
        return
    low, high = float(finite.min()), float(finite.max())
    if spans_decades([finite]):
        ax.set_yscale("log")
        pad = (high / low) ** 0.06
        ax.set_ylim(low / pad, high * pad)
    else:
        pad = 0.06 * (high - low) or 0.05 * abs(high) or 0.05
        ax.set_ylim(low - pad, high + pad)


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
            names[one.method],
            (1.0, share),
            xycoords="axes fraction",
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=styles[one.method].colour,
            fontweight="bold",
            annotation_clip=False,
        )
