"""Numbers, intervals, methods and measures as text, the same in every table, plot and sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from replastic import metrics
from replastic.errors import UnknownNameError
from replastic.options import name_of
from replastic.records import metric_name
from replastic.report.statistics import Estimate

MINUS = "\u2212"
MISSING = "\u2013"


def number(value: float | None, *, signed: bool = False) -> str:
    """Three decimals below 100, one decimal above, and powers of ten for very small and very large numbers."""
    if value is None or math.isnan(value):
        return MISSING
    size = abs(value)
    digits = "e" if size >= 1e6 or 0 < size < 5e-4 else "f"
    places = 3 if size < 100 and digits == "f" else 1
    text = f"{value:{'+' if signed else ''}.{places}{digits}}"
    return text.replace("-", MINUS, 1) if text.startswith("-") else text


def interval(estimate: Estimate, *, signed: bool = False) -> str:
    """``0.412 to 0.467``, or a dash if there is no interval."""
    if estimate.low is None or estimate.high is None:
        return MISSING
    return f"{number(estimate.low, signed=signed)} to {number(estimate.high, signed=signed)}"


def ratio(value: float | None) -> str:
    """A cost as a multiple: ``1.08x``."""
    return MISSING if value is None else f"{value:.2f}\u00d7"


def count(n: int, noun: str) -> str:
    """``1 seed``, ``3 seeds``."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def listing(items: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def plain(text: str) -> str:
    """The text in ASCII, for terminals of any encoding."""
    return text.replace(MINUS, "-").replace(MISSING, "-").replace("\u00d7", "x")


def labels(methods: Sequence[str]) -> dict[str, str]:
    """A short name for each spec: the method's name, with its options only if two specs share the name."""
    names = [name_of(spec) for spec in methods]
    return {
        spec: name if names.count(name) == 1 else spec.replace(":", " ").replace(",", ", ")
        for spec, name in zip(methods, names, strict=True)
    }


def further(key: str, score: str) -> str:
    """Label of a score on other data: ``accuracy: all`` for ``metric/accuracy_all``."""
    name, which = (metric_name(part).replace("_", " ") for part in (score, key.removeprefix(f"{score}_")))
    return f"{name}: {which}"


@dataclass(frozen=True)
class Measure:
    """Name, label and description of a record key, for a page."""

    key: str
    name: str
    label: str
    """Axis label, with the unit."""
    summary: str
    reference: str


def measure(key: str) -> Measure:
    """Describe a record key ``metric/<name>`` by its registered measure, or by its name if none is registered."""
    name = metric_name(key)
    words = name.replace("_", " ").replace("/", ", ")
    try:
        entry = metrics.entry(name)
    except UnknownNameError:
        return Measure(key, name, words, "", "")
    return Measure(key, name, entry.target.label, entry.summary, entry.reference)
