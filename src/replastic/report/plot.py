"""One plot: drawn on a figure of its own, as SVG and PNG, with the words that go with it."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from replastic.extras import require

WIDE, NARROW = 9.2, 5.6
"""Widths in inches: a plot over the whole column of the page, and one of two beside each other."""
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
    narrow: str
    """The SVG again in the shape of a narrow screen; empty for a plot that is narrow anyway."""


def subplots(figure: Any, count: int, columns: int, **shared: bool) -> list[Any]:
    """`count` axes in rows of `columns`, filled row by row."""
    columns = min(columns, count)
    grid = list(figure.subplots(-(-count // columns), columns, squeeze=False, **shared).flat)
    for ax in grid[count:]:
        ax.set_visible(False)
    return grid[:count]


def plot(
    name: str,
    title: str,
    alt: str,
    caption: str,
    fill: Callable[[Any, bool], None],
    size: tuple[float, float],
    narrow: tuple[float, float] | None,
) -> Plot:
    """Draw on figures of their own and keep them as SVG (no date, stable ids) and PNG.

    The reader's own matplotlib settings have no effect, and get none.

    Args:
        name: See `Plot`, as `title`, `alt` and `caption`.
        title: Heading.
        alt: Words for the picture.
        caption: What to know when looking at it.
        fill: Draws on the figure it is given; told whether that is the narrow shape.
        size: Inches.
        narrow: Inches of the narrow shape; None for a plot that is narrow anyway.
    """
    styles = require("matplotlib.style", "report", "drawing curves")
    figures = require("matplotlib.figure", "report", "drawing curves")

    def drawn(inches: tuple[float, float], file_format: str, narrow: bool = False, **options: Any) -> bytes:
        figure = figures.Figure(figsize=inches, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06, wspace=0.03, hspace=0.03)
        fill(figure, narrow)
        out = io.BytesIO()
        figure.savefig(out, format=file_format, **options)
        return out.getvalue()

    undated = {"Date": None, "Creator": None, "Title": title}
    with styles.context(["default", SETTINGS]):
        return Plot(
            name=name,
            title=title,
            alt=alt,
            caption=caption,
            svg=drawn(size, "svg", metadata=undated).decode(),
            png=drawn(size, "png", dpi=200, metadata={"Software": None, "Description": alt}),
            narrow=drawn(narrow, "svg", True, metadata=undated).decode() if narrow else "",
        )
