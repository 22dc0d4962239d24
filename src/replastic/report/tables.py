"""The final table: one row per method, as Markdown, CSV and plain text for a terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from replastic.records import metric_name
from replastic.report import around, measures, words
from replastic.report.controls import is_control
from replastic.report.experiment import Experiment
from replastic.report.safe import csv_cell, markdown_cell
from replastic.report.statistics import INTERVAL, Difference, Estimate, corrected, mean_interval, paired_difference
from replastic.text import columns, json_ready

REFERENCE = "base"
"""Method that the others are compared with, unless the caller names another."""
CSV_HEAD = (
    *("method", "seeds", "final_mean", "final_low", "final_high", "phases_mean", "phases_low", "phases_high"),
    *(
        "difference_mean",
        "difference_low",
        "difference_high",
        "difference_seeds",
        "difference_p",
        "difference_standing",
    ),
    *("seconds", "cost", "unfinished_runs"),
)


@dataclass(frozen=True)
class Row:
    """The numbers of one method. `difference` is None for the reference itself, and without a common seed."""

    method: str
    label: str
    final: Estimate
    average: Estimate
    difference: Difference | None
    seconds: float | None
    """Mean over seeds, from the beginning to the end of the last common phase."""
    cost: float | None
    """`seconds` divided by the reference's, over common seeds."""
    unfinished: int
    """Number of runs of this method that have not finished."""
    around: Mapping[str, Estimate]
    """Measures around the boundaries (see `around.Boundaries`) by name; empty for runs without evaluations."""
    further: Mapping[str, Estimate]
    """The score on other data at the same moment, by key."""
    control: bool
    """Whether it is a control, which tables and plots show below the methods."""


@dataclass(frozen=True)
class Table:
    """Rows of the final table: the reference first, then methods, then controls, each from the best score down."""

    rows: tuple[Row, ...]
    reference: str | None
    """Spec of the method that the others are compared with; None if it was not run."""
    experiment: Experiment

    @property
    def around(self) -> dict[str, tuple[str, str]]:
        """Head and meaning of each of the measures around the boundaries that these runs have."""
        known = around.explained(self.experiment).items()
        return {name: said for name, said in known if any(name in row.around for row in self.rows)}

    def to_dict(self) -> dict[str, Any]:
        """The content for JSON. Numbers that are not finite become null."""
        shown = self.experiment.shown
        return {
            "benchmark": self.experiment.benchmark,
            "score": shown.score,
            "phases": self.experiment.phases,
            "reference": self.reference,
            "unfinished": [str(run.path) for run in self.experiment.unfinished],
            "methods": [
                {
                    "method": row.method,
                    "final": as_json(row.final),
                    "mean_over_phases": as_json(row.average),
                    "difference": as_json(row.difference),
                    "standing": row.difference.standing(shown.higher_is_better) if row.difference else None,
                    "seconds": row.seconds,
                    "cost": row.cost,
                    "around_boundaries": {name: as_json(estimate) for name, estimate in row.around.items()},
                    "further_scores": {key: as_json(estimate) for key, estimate in row.further.items()},
                }
                for row in self.rows
            ],
        }


def final_table(experiment: Experiment, reference: str | None = None) -> Table:
    """Compute the table from records alone.

    Args:
        experiment: The runs.
        reference: Method that the others are compared with. None means ``base``, or no comparison if it was not run.

    Raises:
        UnknownNameError: The `reference` was not run.
    """
    known = REFERENCE if REFERENCE in experiment.runs else None
    if reference is not None:
        known = experiment.spec(reference)
    rows = [_row(experiment, method, known) for method in experiment.runs]
    sign = -1.0 if experiment.shown.higher_is_better else 1.0
    rows.sort(key=lambda r: (r.method != known, r.control, np.nan_to_num(sign * r.final.mean, nan=np.inf), r.method))
    differences = corrected([row.difference for row in rows])
    marked = [replace(row, difference=one) for row, one in zip(rows, differences, strict=True)]
    return Table(tuple(marked), known, experiment)


def to_csv(table: Table) -> str:
    """Every number at full precision; a missing number is an empty field."""
    beside, further = table.around, table.experiment.further_scores
    higher = table.experiment.shown.higher_is_better
    lines: list[list[Any]] = [[*CSV_HEAD, *beside, *map(metric_name, further)]]
    for row in table.rows:
        difference, one = fields(row.difference), row.difference
        difference += [str(one.n), _text(one.p), one.standing(higher)] if one else ["", "", ""]
        lines.append(
            [row.method, row.final.n, *fields(row.final), *fields(row.average), *difference]
            + [_text(row.seconds), _text(row.cost), row.unfinished]
            + [_text(row.around[name].mean) if name in row.around else "" for name in beside]
            + [_text(row.further[key].mean) for key in further]
        )
    return comma_separated(lines)


def to_markdown(table: Table) -> str:
    """The table as Markdown for GitHub."""
    return markdown(cells(table))


def to_text(table: Table) -> str:
    """The table in plain ASCII with aligned columns."""
    return text(cells(table))


def cells(table: Table) -> list[list[str]]:
    """Head and rows as text, the same for Markdown and the terminal."""
    shown = table.experiment.shown
    against = table.reference or REFERENCE
    beside, further = table.around, table.experiment.further_scores
    head = ["method", "final", INTERVAL, f"mean over {shown.phase_label}s", "seeds", f"minus {against}"]
    head += [INTERVAL, "verdict", "cost", *(name for name, _ in beside.values())]
    head += [shown.label(key) for key in further]
    lines = [head]
    for row in table.rows:
        difference = row.difference
        mark = f"{row.method} (unfinished)" if row.unfinished else row.method
        line = [mark, words.number(row.final.mean), words.interval(row.final), words.number(row.average.mean)]
        line += [str(row.final.n), words.number(difference.mean if difference else None, signed=True)]
        line += [words.interval(difference, signed=True) if difference else words.MISSING]
        line += [difference.standing(shown.higher_is_better) if difference else words.MISSING, words.ratio(row.cost)]
        line += [words.number(row.around[name].mean if name in row.around else None) for name in beside]
        line += [words.number(row.further[key].mean) for key in further]
        lines.append(line)
    return lines


def comma_separated(lines: Sequence[Sequence[Any]]) -> str:
    """Lines of fields as CSV, none of which is a formula."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([map(csv_cell, line) for line in lines])
    return out.getvalue()


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Head and rows as a Markdown table. All columns but the first are aligned to the right."""
    head, *body = [[markdown_cell(cell) for cell in line] for line in lines]
    parts = [" | ".join(head), " | ".join(["---", *["--:"] * (len(head) - 1)]), *(" | ".join(line) for line in body)]
    return "\n".join(f"| {part} |" for part in parts) + "\n"


def text(lines: Sequence[Sequence[str]]) -> str:
    """Head and rows in plain ASCII with aligned columns."""
    return "\n".join(columns([[words.plain(cell) for cell in line] for line in lines], numbers=True))


def fields(estimate: Estimate | None) -> list[str]:
    """Mean and both ends of the interval at full precision; a missing number is empty."""
    return [_text(v) for v in (estimate.mean, estimate.low, estimate.high)] if estimate else ["", "", ""]


def as_json(estimate: Estimate | None) -> dict[str, Any] | None:
    """An estimate for JSON. Numbers that are not finite become null."""
    if estimate is None:
        return None
    known = {"mean": estimate.mean, "low": estimate.low, "high": estimate.high, "seeds": estimate.n}
    return dict(json_ready(known))


def _row(experiment: Experiment, method: str, reference: str | None) -> Row:
    final, bounds = measures.final_scores(experiment, method), experiment.shown.bounds
    seconds = measures.costs(experiment, method)
    difference, cost = None, None
    if reference is not None:
        base_seconds = measures.costs(experiment, reference)
        common = seconds.keys() & base_seconds.keys()
        if common and sum(base_seconds[s] for s in common) > 0:
            cost = sum(seconds[s] for s in common) / sum(base_seconds[s] for s in common)
        if method != reference:
            difference = paired_difference(final, measures.final_scores(experiment, reference), bounds=bounds)
    return Row(
        method=method,
        label=words.labels(experiment.methods)[method],
        final=mean_interval(list(final.values()), bounds=bounds),
        average=mean_interval(list(measures.mean_scores(experiment, method).values()), bounds=bounds),
        difference=difference,
        seconds=float(np.mean(list(seconds.values()))) if seconds else None,
        cost=cost,
        unfinished=sum(run.info.method == method for run in experiment.unfinished),
        around=_around(experiment, method),
        further={
            key: mean_interval(list(measures.final_scores(experiment, method, key).values()), bounds=bounds)
            for key in experiment.further_scores
        },
        control=method != reference and is_control(method),
    )


def _around(experiment: Experiment, method: str) -> dict[str, Estimate]:
    shown = experiment.shown
    found = [
        around.boundaries(
            run,
            shown.score,
            phases=experiment.phases,
            first=experiment.first,
            higher_is_better=shown.higher_is_better,
            axis=shown.axis,
        )
        for run in experiment.runs[method].values()
    ]
    known = [asdict(one) for one in found if one is not None]
    bounds = around.bounds(experiment)
    names = known[0] if known else {}
    return {name: mean_interval([one[name] for one in known], bounds=bounds[name]) for name in names}


def _text(value: float | None) -> str:
    return "" if value is None else repr(float(value))
