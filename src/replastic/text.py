"""Results as text and as JSON: aligned columns, and values that JSON can hold."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring = 3, 80


def columns(rows: Sequence[Sequence[str]], *, numbers: bool = False) -> list[str]:
    """One line per row, with aligned columns two spaces apart; see `printable`.

    Args:
        rows: Rows with equally many cells each; the first row is the head.
        numbers: Align all columns but the first to the right, and put a rule below the head.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if numbers:
        rows = [rows[0], ["-" * width for width in widths], *rows[1:]]

    def cell(text: str, width: int, first: bool) -> str:
        return text.rjust(width) if numbers and not first else text.ljust(width)

    return [
        "  ".join(cell(text, width, i == 0) for i, (text, width) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]


def printable(text: str) -> str:
    r"""The text with every character that is not printable as its escape, such as ``\x1b`` or ``\u202e``.

    For names that come from files: they cannot steer a terminal, reverse the direction of writing or break a line.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def printable_lines(text: str) -> str:
    """`printable` for each line of a text that is meant to have several."""
    return "\n".join(map(printable, text.split("\n")))


def duration(seconds: float) -> str:
    """A length of time in words, to two digits or so."""
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def shown(value: object) -> str:
    """The value as it would be typed, in one short line, for a sentence on wrong input."""
    return printable(_SHORT.repr(value))


def json_ready(value: Any) -> Any:
    """The value with JSON's types: tensors and arrays as lists, NaN and infinity as null, other objects as text."""
    if hasattr(value, "tolist"):
        return json_ready(value.tolist())
    if isinstance(value, Mapping):
        return {str(k): json_ready(v) for k, v in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [json_ready(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, int | str | None) else str(value)
