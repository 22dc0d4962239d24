"""Tables of several measures with their intervals, one row per method: around the boundaries, and just after them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from replastic.options import name_of
from replastic.records import Event, key
from replastic.report import measures, tables, words
from replastic.report.experiment import HELD_OUT, Experiment
from replastic.report.safe import markdown_cell
from replastic.report.statistics import INTERVAL, Difference, Estimate, mean_interval
from replastic.report.tables import Table

AFTER = Event.BOUNDARY.value
"""The event just after a method was applied; also the name of the table of measures taken there."""


@dataclass(frozen=True)
class Column:
    """One measure: the name of its CSV fields, the head of its column, its meaning and its source.

    Without a meaning the page does not explain it.
    """

    name: str
    head: str
    meaning: str
    source: str = ""


@dataclass(frozen=True)
class Sheet:
    """Estimates by method and measure. Methods are in the order of the final table; those without any are left out."""

    name: str
    """File stem, and the name on the command line."""
    title: str
    note: str
    """A sentence that says how the values were averaged."""
    columns: tuple[Column, ...]
    rows: Mapping[str, Mapping[str, Estimate]]
    """Estimates by spec of the method and name of the column. A method may lack a measure."""
    labels: Mapping[str, str]
    """Label of each method, by its spec."""
    of: str = "method"
    """The head of the first column: what there is a row for. All that is said of methods here then holds for those."""
    beside: str = ""
    """Name of the plot that belongs to it; empty for a plot of its own name."""

    def to_dict(self) -> dict[str, Any]:
        """The content for JSON. Numbers that are not finite become null."""
        return {method: {name: tables.as_json(e) for name, e in row.items()} for method, row in self.rows.items()}

    def to_csv(self) -> str:
        """Mean and both ends of the interval of every measure, at full precision."""
        lines: list[list[Any]] = [[self.of, "seeds"]]
        lines[0] += [f"{c.name}_{part}" for c in self.columns for part in ("mean", "low", "high")]
        for method, row in self.rows.items():
            parts = [part for c in self.columns for part in tables.fields(row.get(c.name))]
            lines.append([method, max(e.n for e in row.values()), *parts])
        return tables.comma_separated(lines)

    def to_markdown(self) -> str:
        """The table as Markdown for GitHub, with the note."""
        return f"{tables.markdown(self._cells())}\n{markdown_cell(self.note)}\n"

    def to_text(self) -> str:
        """The table in plain ASCII with aligned columns."""
        return tables.text(self._cells())

    def _cells(self) -> list[list[str]]:
        lines = [[self.of, "seeds", *(column.head for column in self.columns)]]
        for method, row in self.rows.items():
            values = [_with_interval(row.get(column.name)) for column in self.columns]
            name = method if self.of == "method" else self.labels[method]
            lines.append([name, str(max(e.n for e in row.values())), *values])
        return lines


def around(table: Table) -> Sheet:
    """The score around the boundaries. There are no rows for runs without evaluations inside their phases."""
    columns = [Column(name, head, meaning) for name, (head, meaning) in table.around.items()]
    rows = {row.method: row.around for row in table.rows if row.around}
    return at_boundaries(table, "around", "Around the boundaries", columns, rows)


def just_after(table: Table) -> Sheet:
    """The scores and all measures of the whole network, just after a method was applied."""
    experiment = table.experiment
    columns = _measured(experiment)
    rows = {row.method: _after(experiment, row.method, columns) for row in table.rows}
    if columns and "drop" in table.around:
        columns.insert(1, Column("drop", *table.around["drop"]))
        for row in table.rows:
            rows[row.method] |= {name: drop for name, drop in row.around.items() if name == "drop"}
    return at_boundaries(
        table, AFTER, "Just after the boundary", columns, {method: row for method, row in rows.items() if row}
    )


def at_boundaries(
    table: Table, name: str, title: str, columns: list[Column], rows: Mapping[str, Mapping[str, Estimate]]
) -> Sheet:
    """A sheet of what was found at the boundaries of the runs; without rows where there is none."""
    experiment = table.experiment
    crossed = experiment.phases - max(1, experiment.first)
    over = "At the only boundary" if crossed == 1 else f"Mean over the {crossed} boundaries of a run"
    note = f"{over}; mean over seeds with its {INTERVAL}."
    labels = {row.method: row.label for row in table.rows}
    return Sheet(name, title, note, tuple(columns), rows if crossed > 0 else {}, labels)


def _measured(experiment: Experiment) -> list[Column]:
    """Scores first, then measures in the order of the setting `boundary_metrics`."""
    shown, keys = experiment.shown, experiment.keys(AFTER)
    scores = [k for k in (shown.score, *experiment.further_scores) if k in keys]
    asked = [key(name_of(name)) for name in experiment.settings.get("boundary_metrics", ())]
    rest = [k for k in keys if k.count("/") == 1 and k not in scores and not k.endswith(HELD_OUT)]
    rest.sort(key=lambda k: asked.index(k) if k in asked else len(asked))
    columns = []
    for of in (*scores, *rest):
        measure = words.measure(of)
        head, meaning = measure.name.replace("_", " "), measure.summary or f"{measure.label} right after the boundary"
        if of in experiment.further_scores:
            head = shown.label(of)
        columns.append(Column(measure.name, head, meaning.rstrip("."), measure.reference))
    return columns


def _after(experiment: Experiment, method: str, columns: list[Column]) -> dict[str, Estimate]:
    """Each measure averaged over the boundaries of a run, then over seeds."""
    found = {}
    for column in columns:
        values = experiment.over_phases(method, key(column.name), AFTER)[:, max(1, experiment.first) :]
        taken = values[:, ~np.isnan(values).all(axis=0)]
        if taken.size:
            found[column.name] = mean_interval(
                taken.mean(axis=1), bounds=measures.bounds_of(experiment, key(column.name))
            )
    return found


def _with_interval(estimate: Estimate | None) -> str:
    if estimate is None or estimate.low is None:
        return words.number(estimate.mean if estimate else None)
    weak = "; weak" if isinstance(estimate, Difference) and estimate.weak else ""
    return f"{words.number(estimate.mean)} ({words.interval(estimate)}{weak})"
