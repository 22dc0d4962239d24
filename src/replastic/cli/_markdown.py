"""Lists as Markdown tables: the pages on methods and measures are made from them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from replastic import methods, metrics, triggers
from replastic.report.controls import is_control
from replastic.weights.known import table

Row = Mapping[str, Any]
"""The description of one thing: ``name``, ``summary``, ``reference``, of some kinds also ``settings``."""

BETWEEN = "Methods that act between two phases"
TRAINING = "Methods that act while the network trains"
CONTROLS = "Controls"
MEASURES = {
    "weight": "Measures of a weight matrix",
    "change": "Measures of a change of the weights",
    "features": "Measures of what a layer gives out",
    "loss": "Measures of the loss and of the outputs",
}
"""Titles by `Metric.on`."""
_AUTHORS = re.compile(r"Reference:.*?\b([A-Z][a-z][\w-]*(?: et al\.| and [A-Z][\w-]+)?),? \(?(?:[A-Z]+ )?(\d{4})\b")
"""In a docstring: who is named first after that word, and the year."""


def tables(kind: str, rows: Sequence[Row]) -> str:
    """The tables of a kind, each below a heading; methods and measures are grouped by what they can do."""
    if kind == "layouts":
        return f"## Classes that are known\n\n{_layouts()}"
    if kind == "methods":
        found = {
            title: [row for row in rows if _group(row["name"]) == title] for title in (BETWEEN, TRAINING, CONTROLS)
        }
    elif kind == "metrics":
        found = {title: [r for r in rows if metrics.get(r["name"]).on == on] for on, title in MEASURES.items()}
    else:
        found = {kind.capitalize(): list(rows)}
    return "\n\n".join(f"## {title}\n\n{_table(kind, group)}" for title, group in found.items() if group)


def _group(name: str) -> str:
    """The group of a method: what it overrides says when it acts, its file's first line whether it is a control."""
    kind, base = methods.get(name), methods.Method
    if is_control(name):
        return CONTROLS
    hooks = (
        (kind.penalty, base.penalty),
        (kind.after_step, base.after_step),
        (kind.make_optimizer, base.make_optimizer),
    )
    return TRAINING if any(own is not inherited for own, inherited in hooks) else BETWEEN


def _table(kind: str, rows: Sequence[Row]) -> str:
    columns = {"name": [f"`{row['name']}`" for row in rows], "what it is": [_cell(row["summary"]) for row in rows]}
    if any(row.get("settings") for row in rows):
        columns["options and their defaults"] = [", ".join(map(_setting, row["settings"])) for row in rows]
    if kind == "metrics":
        columns["in reports"] = [_cell(metrics.get(row["name"]).label) for row in rows]
        columns["better"] = [metrics.get(row["name"]).better for row in rows]
    columns["source"] = [_source(kind, row) for row in rows]
    return _lines(columns)


def _layouts() -> str:
    rows = table()
    return _lines(
        {
            "model family": [_cell(row.family) for row in rows],
            "class": [", ".join(f"`{name}`" for name in row.classes) for row in rows],
            "weight": [f"`{row.weight}`" for row in rows],
            "how it is cut": [_cell(row.cut) for row in rows],
            "source": [_cell(row.source) for row in rows],
        }
    )


def _lines(columns: Mapping[str, Sequence[str]]) -> str:
    """A Markdown table from its columns."""
    body = zip(*columns.values(), strict=True)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *body))


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def _setting(setting: Mapping[str, Any]) -> str:
    """One option with its default, as it is typed in a spec."""
    text = plain(setting["default"])
    return f"`{setting['name']}={text}`" if text else f"`{setting['name']}`"


def plain(default: object) -> str:
    """A default as it is typed after a flag."""
    return " ".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _source(kind: str, row: Row) -> str:
    """A link to the source, with its authors where the docstring names them first; "ours" where it says that."""
    doc = " ".join(_docstring(kind, row["name"]).split())
    if not row["reference"]:
        return "ours" if re.search(r"\bOurs\b", doc) else ""
    authors = _AUTHORS.search(doc)
    place = urlsplit(row["reference"])
    where = f"arXiv {place.path.rpartition('/')[2]}" if place.hostname == "arxiv.org" else place.hostname
    return f"[{' '.join(authors.groups()) if authors else where}]({row['reference']})"


def _docstring(kind: str, name: str) -> str:
    if kind == "metrics":
        return metrics.get(name).compute.__doc__ or ""
    room = {"methods": methods, "triggers": triggers}.get(kind)
    return room.get(name).__doc__ or "" if room is not None else ""
