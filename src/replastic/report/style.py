"""Colours of the methods, the same in every plot and safe for colour-blind readers. Main methods are in front."""

from __future__ import annotations

from dataclasses import dataclass

from replastic.options import name_of
from replastic.report import words
from replastic.report.tables import Table

MAIN = {"base": "#3b414d", "fire": "#d55e00", "interpolation": "#0072b2", "full_reset": "#009e73"}
"""Methods that are always in front, with colours that are the same in all reports (palette of Okabe and Ito)."""
FURTHER = ("#cc79a7", "#e69f00", "#56b4e9")
MUTED = "#b4b9c2"
ACCENT = "fire"
"""The method with the thickest line."""


@dataclass(frozen=True)
class Line:
    """The line of one method. If it is not in `front`, it is thin and grey."""

    colour: str
    width: float
    front: bool


OTHER = Line(MUTED, 0.8, False)
"""The line of a method that is not in front."""


def lines(table: Table) -> dict[str, Line]:
    """One line style per spec: main methods in their colours, the best of the others in the further ones, then grey.

    The colour of a main method is never that of another, also where the main method was not run.
    """
    specs = [row.method for row in table.rows]
    own: dict[str, str] = {}
    for name, colour in MAIN.items():
        of_that_name = sorted((spec for spec in specs if name_of(spec) == name), key=len)
        own.update(dict.fromkeys(of_that_name[:1], colour))
    free = list(FURTHER)
    for spec in specs:
        if spec not in own and free:
            own[spec] = free.pop(0)
    return {
        spec: Line(own.get(spec, MUTED), 2.6 if name_of(spec) == ACCENT else 1.8 if spec in own else 0.8, spec in own)
        for spec in specs
    }


def behind(table: Table) -> str:
    """A sentence on the thin grey lines; empty if there are none."""
    others = sum(not line.front for line in lines(table).values())
    if not others:
        return ""
    return f" Thin and grey: the other {words.count(others, 'method')}, each with a plot of its own below."
