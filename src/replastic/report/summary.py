"""The result in a few plain sentences, computed from the records and never stronger than the intervals."""

from __future__ import annotations

import math

from replastic.report import words
from replastic.report.measures import final_scores
from replastic.report.statistics import Estimate, Standing, paired_difference
from replastic.report.tables import REFERENCE, Row, Table

MANY = 5
"""From this many comparisons on, the reader is told how often an interval misses by chance."""


def sentences(table: Table) -> list[str]:
    """What was run, what happened to the reference, which methods differ from it, and what is not settled."""
    found = [_what(table), *_reference(table)]
    found += _differences(table) if table.reference else [_no_reference(table)]
    found += _leader(table) + _not_finite(table) + _cautions(table)
    return found


def _what(table: Table) -> str:
    experiment = table.experiment
    shown = experiment.shown
    direction = "higher" if shown.higher_is_better else "lower"
    seeds = sorted({row.final.n for row in table.rows})
    spread = words.count(seeds[-1], "seed") if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds"
    return (
        f"{words.count(len(table.rows), 'method')} on {experiment.benchmark}, {spread} each, "
        f"{words.count(experiment.phases, shown.phase_label)}; the score is {shown.score_label}, {direction} is better."
    )


def _reference(table: Table) -> list[str]:
    """How the reference's score moved from its first phase to its last."""
    experiment = table.experiment
    if table.reference is None or experiment.phases < 2:
        return []
    label = experiment.shown.phase_label
    first = final_scores(experiment.until(1), table.reference)
    last = final_scores(experiment, table.reference)
    change = paired_difference(last, first)
    start = sum(first.values()) / len(first)
    if change is None or not math.isfinite(change.mean):
        return []
    moved = (
        f"{table.reference} goes from {words.number(start)} after the first {label} to "
        f"{words.number(start + change.mean)} after {label} {experiment.phases}"
    )
    if change.verdict == "one seed":
        return [f"{moved} (one seed)."]
    if change.verdict == "not settled":
        return [f"{moved}, a change the seeds do not settle (95% interval {words.interval(change, signed=True)})."]
    better = change.standing(experiment.shown.higher_is_better) == "better"
    return [
        f"{moved}: it {'improves' if better else 'gets worse'} (95% interval {words.interval(change, signed=True)})."
    ]


def _differences(table: Table) -> list[str]:
    """The methods by what their paired difference to the reference settles."""
    higher_is_better = table.experiment.shown.higher_is_better
    groups: dict[Standing, list[str]] = {}
    for row in table.rows:
        if row.difference is not None:
            groups.setdefault(row.difference.standing(higher_is_better), []).append(_one(row, row.difference))
    unpaired = [r.label for r in table.rows if r.difference is None and r.method != table.reference]
    where = f"than {table.reference} on the same seeds (95% interval excludes zero)"
    found = []
    if "better" in groups:
        found.append(f"Better {where}: {'; '.join(groups['better'])}.")
    if "worse" in groups:
        found.append(f"Worse {where}: {'; '.join(groups['worse'])}.")
    if not {"better", "worse"} & groups.keys() and "not settled" in groups:
        found.append(f"No method is shown to differ from {table.reference}.")
    if "not settled" in groups:
        found.append(f"Not settled, the interval includes zero: {'; '.join(groups['not settled'])}.")
    if "one seed" in groups:
        found.append(
            f"Only one seed is common with {table.reference}, so no interval can be given and nothing is settled: "
            f"{'; '.join(groups['one seed'])}."
        )
    if unpaired:
        found.append(f"No seed in common with {table.reference}: {words.listing(unpaired)}.")
    return found


def _one(row: Row, difference: Estimate) -> str:
    interval = "" if difference.low is None else f", {words.interval(difference, signed=True)}"
    return f"{row.label} ({words.number(difference.mean, signed=True)}{interval})"


def _no_reference(table: Table) -> str:
    return f"{REFERENCE} was not run with these, so there is no difference to it."


def _leader(table: Table) -> list[str]:
    """The best mean and whether its lead over the next is settled."""
    sign = -1 if table.experiment.shown.higher_is_better else 1
    ranked = sorted((r for r in table.rows if math.isfinite(r.final.mean)), key=lambda r: sign * r.final.mean)
    if len(ranked) < 2:
        return []
    best, second = ranked[:2]
    scores = [final_scores(table.experiment, row.method) for row in (best, second)]
    lead = paired_difference(scores[0], scores[1])
    said = f"The best mean is that of {best.label} ({words.number(best.final.mean)})"
    if lead is None or lead.verdict == "one seed":
        return [f"{said}, before {second.label} ({words.number(second.final.mean)})."]
    settled = lead.standing(table.experiment.shown.higher_is_better) == "better"
    verdict = "its lead" if settled else "the order of these two is not settled: the difference"
    return [
        f"{said}; over the next, {second.label}, {verdict} is {words.number(lead.mean, signed=True)} "
        f"(95% interval {words.interval(lead, signed=True)})."
    ]


def _not_finite(table: Table) -> list[str]:
    broken = [row.label for row in table.rows if not math.isfinite(row.final.mean)]
    return [f"Not finite in at least one seed, so without a mean: {words.listing(broken)}."] if broken else []


def _cautions(table: Table) -> list[str]:
    experiment = table.experiment
    compared = sum(row.difference is not None and row.difference.low is not None for row in table.rows)
    found = []
    if compared >= MANY:
        found.append(
            f"{compared} intervals are shown; each of them misses the true difference in 1 of 20 experiments, so "
            "a single one that barely excludes zero is weak evidence."
        )
    if experiment.unfinished:
        left = f" {len(experiment.left_out)} of them have no score yet and are left out." if experiment.left_out else ""
        found.append(
            f"Unfinished: {words.count(len(experiment.unfinished), 'run')} still to be completed, so everything here "
            f"is taken up to {experiment.shown.phase_label} {experiment.phases}, the last that all have reached.{left}"
        )
    return found
