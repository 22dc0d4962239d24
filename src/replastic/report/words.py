"""Numbers, intervals, methods and measures as text, the same in every table, plot and sentence."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from replastic import metrics
from replastic.errors import UnknownNameError
from replastic.options import name_of
from replastic.records import metric_name
from replastic.report import networks
from replastic.report.statistics import FREE, PERCENT, Bounds, Estimate

FIGURES = 3
"""Significant figures of a number in a table or a sentence. The CSV files have all."""
MOST = 9
"""Most decimals of an interval whose ends are close to each other."""
SMALL, LARGE = 4, 6
"""Numbers below 10^-SMALL and from 10^LARGE on are written with a power of ten."""
MINUS = "\u2212"
MISSING = "\u2013"
ASCII = {MINUS: "-", MISSING: "-", "\u00d7": "x", "\u221e": "inf", "\u2016": "||", "\u1d40": "^T", "\u00b2": "^2"}
"""Signs of ours, each with its letters for a terminal."""
SYMBOLS = (
    (r"\|\|", "\u2016"),
    (r"\b(\w) \1\^T", "\\1\\1\u1d40"),
    (r"\^T\b", "\u1d40"),
    (r"_2\^2\b", "\u2082\u00b2"),
    (r"_F\^2|\^2\b", "\u00b2"),
    (r"\u2016_([F2])\b", "\u2016"),
    (r"(?<=[\w\u1d40)]) - (?=[\w(]+\u2016)", f" {MINUS} "),
    (r"\b(\w+) x (\w+)\b", "\\1 \u00d7 \\2"),
    (r"\btau\b", "\u03c4"),
    (r"\bdelta\b", "\u03b4"),
    (r"<=", "\u2264"),
    (r"\+-", "\u00b1"),
)
"""Patterns in docstrings of measures, each with its symbol."""


def number(value: float | None, *, signed: bool = False) -> str:
    """Three significant figures: ``0.894``, ``62,100``, ``3.20e\u22127``. No number is a dash."""
    if value is None or math.isnan(value):
        return MISSING
    if value == 0:
        return "0"
    if math.isinf(value):
        return "\u221e" if value > 0 else f"{MINUS}\u221e"
    return _number(value, FIGURES - 1 - _power(value), signed)


def interval(estimate: Estimate, *, signed: bool = False) -> str:
    """``0.412 to 0.467``, or a dash if there is no interval.

    Both ends have the decimals that give the larger one three significant figures: more where they would then look the
    same, and figures of their own where the smaller one would seem to be zero.
    """
    if estimate.low is None or estimate.high is None:
        return MISSING
    ends = (estimate.low, estimate.high)
    if ends == (0, 0):
        return "0 to 0"
    decimals = FIGURES - 1 - max(map(_power, ends))
    while ends[0] != ends[1] and decimals < MOST and round(ends[0], decimals) == round(ends[1], decimals):
        decimals += 1
    if min(map(_power, ends)) < -SMALL or max(map(_power, ends)) >= LARGE or any(_hides(e, decimals) for e in ends):
        return " to ".join(number(end, signed=signed) for end in ends)
    return " to ".join(_number(end, decimals, signed) for end in ends)


def intervals(bounds: Bounds) -> str:
    """How intervals of a mean are computed, for a score with these bounds."""
    low, high = bounds
    if low is None and high is None:
        how = "mean \u00b1 t \u00d7 s / \u221an over the seeds"
    elif low is None or high is None:
        end = f"{low if high is None else high:g}"
        how = f"t intervals of the logarithm of the distance to {end}, the limit of the score, which they never cross"
    else:
        how = f"t intervals of the logit, so that they stay between {low:g} and {high:g}, as the score does"
    return f"Intervals of means are {PERCENT} intervals: {how}."


def _power(value: float) -> int:
    """Power of ten of a number when it is rounded to its significant figures; 0 of zero."""
    return int(f"{value:.{FIGURES - 1}e}".partition("e")[2]) if value else 0


def _hides(value: float, decimals: int) -> bool:
    return value != 0 and round(value, decimals) == 0


def _number(value: float, decimals: int, signed: bool) -> str:
    sign = "+" if signed else ""
    if value and not -SMALL <= _power(value) < LARGE:
        digits, _, power = f"{value:{sign}.{FIGURES - 1}e}".partition("e")
        return f"{digits}e{int(power)}".replace("-", MINUS)
    return f"{round(value, decimals) + 0.0:{sign},.{max(decimals, 0)}f}".replace("-", MINUS)


def ratio(value: float | None) -> str:
    """A cost as a multiple: ``1.08x``."""
    return MISSING if value is None or not math.isfinite(value) else f"{value:.2f}\u00d7"


def count(n: int, noun: str) -> str:
    """``1 seed``, ``3 seeds``."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def listing(items: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def plain(text: str) -> str:
    """The text in ASCII, for terminals of any encoding."""
    for sign, letters in ASCII.items():
        text = text.replace(sign, letters)
    return text.encode("ascii", "backslashreplace").decode("ascii")


def typeset(text: str) -> str:
    """Formulas of a docstring in the symbols of mathematics: ``‖WWᵀ − I‖²`` for ``||W W^T - I||_F^2``."""
    for pattern, symbol in SYMBOLS:
        text = re.sub(pattern, symbol, text)
    return text


def labels(methods: Sequence[str]) -> dict[str, str]:
    """A short name for each spec: the method's name, or the whole spec, as it is typed, if two specs share the name."""
    names = [name_of(spec) + network for spec, network in map(networks.split, methods)]
    return {spec: name if names.count(name) == 1 else spec for spec, name in zip(methods, names, strict=True)}


@dataclass(frozen=True)
class Measure:
    """Name, label and description of a record key, for a page."""

    key: str
    name: str
    label: str
    """Axis label, with the unit."""
    summary: str
    reference: str
    bounds: Bounds = FREE
    """Least and largest value that it can have."""
    logarithmic: bool = False
    """Whether its axes are logarithmic."""


def measure(key: str) -> Measure:
    """Describe a record key ``metric/<name>`` by its registered measure, or by its name if none is registered."""
    name = metric_name(key)
    try:
        entry = metrics.entry(name.partition("/")[0])
    except UnknownNameError:
        return Measure(key, name, name.replace("_", " ").replace("/", ", "), "", "")
    known = entry.target
    if "/" in name:  # of one layer
        return Measure(key, name, name.replace("_", " ").replace("/", ", "), "", "", known.bounds, known.logarithmic)
    return Measure(
        key, name, typeset(known.label), typeset(entry.summary), entry.reference, known.bounds, known.logarithmic
    )
