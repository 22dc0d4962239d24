"""The result in a few plain sentences, computed from the records. They claim no more than the intervals show."""

from __future__ import annotations

import math
from collections.abc import Sequence

from replastic.report import networks, words
from replastic.report.experiment import Experiment
from replastic.report.measures import final_scores
from replastic.report.run_data import RunData
from replastic.report.statistics import INTERVAL, LEVEL, Difference, Standing, paired_difference
from replastic.report.tables import REFERENCE, Row, Table

MANY = 5
"""From this many comparisons on, the summary says how often an interval misses by chance."""
CROWD = 10
"""From this many on, methods are counted and not named; the table has their names."""
_NO_REFERENCE = f"{REFERENCE} was not run with these methods, so there is no difference to it."


def sentences(table: Table) -> list[str]:
    """Sentences on the runs, the change of the reference's score, the methods that differ from it, and the doubts."""
    found = [_what(table), *_networks(table), *_reference(table)]
    found += _differences(table) if table.reference else [_NO_REFERENCE]
    found += _leader(table) + _not_finite(table) + _cautions(table)
    return found


def _networks(table: Table) -> list[str]:
    """A sentence on rows of other networks than the settings of the page name."""
    others = list(dict.fromkeys(filter(None, (networks.split(row.method)[1] for row in table.rows))))
    if not others:
        return []
    return [
        f"{words.count(len(others) + 1, 'network')} are compared: a row that names one ran on that, all others on the "
        "network of the settings; data, draws of the labels and training are the same."
    ]


def _what(table: Table) -> str:
    experiment = table.experiment
    shown = experiment.shown
    direction = "higher" if shown.higher_is_better else "lower"
    seeds = sorted({row.final.n for row in table.rows})
    spread = words.count(seeds[-1], "seed") if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds"
    return (
        f"{words.count(len(table.rows), 'method')} with {spread} each went through "
        f"{words.count(experiment.phases, shown.phase_label)}; "
        f"the score is {shown.score_label} ({direction} is better)."
    )


def _reference(table: Table) -> list[str]:
    """The change of the reference's score from its first phase to its last, where these are tasks of one kind."""
    experiment = table.experiment
    if table.reference is None or experiment.phases < 2 or len(set(experiment.shown.phase_names)) > 1:
        return []
    label = experiment.shown.phase_label
    first = final_scores(experiment.until(1), table.reference)
    last = final_scores(experiment, table.reference)
    change = paired_difference(last, first, bounds=experiment.shown.bounds)
    start = sum(first.values()) / len(first)
    if change is None or not math.isfinite(change.mean):
        return []
    moved = (
        f"{table.reference} goes from {words.number(start)} after the first {label} to "
        f"{words.number(start + change.mean)} after {label} {experiment.phases}"
    )
    if change.verdict == "one seed":
        return [f"{moved} (one seed)."]
    if change.verdict == "no effect":
        return [f"{table.reference} ends as it began: {words.number(start)} after {label} {experiment.phases}."]
    if change.verdict == "not settled":
        return [f"{moved}, a change that the seeds do not settle ({INTERVAL} {_range(change)})."]
    better = change.standing(experiment.shown.higher_is_better) == "better"
    return [f"{moved}: {'a gain' if better else 'a loss'} of {_size(change)}."]


def _differences(table: Table) -> list[str]:
    """The methods, grouped by the verdict on their paired difference to the reference."""
    higher_is_better = table.experiment.shown.higher_is_better
    groups: dict[Standing, list[tuple[Row, Difference]]] = {}
    for row in table.rows:
        if row.difference is not None:
            groups.setdefault(row.difference.standing(higher_is_better), []).append((row, row.difference))
    unpaired = [r.label for r in table.rows if r.difference is None and r.method != table.reference]
    settled = [standing for standing in ("better", "worse") if standing in groups]
    weak = [standing for standing in ("weakly better", "weakly worse") if standing in groups]
    tested = sum(row.difference is not None and row.difference.p is not None for row in table.rows)
    found = [
        f"On the same seeds, {standing} than {table.reference}: {_group(groups[standing])}." for standing in settled
    ]
    found += [
        f"Only {standing} than {table.reference}, as the {INTERVAL} excludes zero but Holm's correction for "
        f"{words.count(tested, 'comparison')} says that one such interval proves little: {_group(groups[standing])}."
        for standing in weak
    ]
    if not settled and not weak and "not settled" in groups:
        found.append(f"No method is shown to differ from {table.reference}.")
    if "not settled" in groups:
        found.append(f"Not settled, as the {INTERVAL} includes zero: {_group(groups['not settled'])}.")
    if "one seed" in groups:
        found.append(
            f"Only one seed is common with {table.reference}, so no interval can be given and nothing is settled: "
            f"{_group(groups['one seed'])}."
        )
    if "no effect" in groups:
        found += _without_effect(table, [row for row, _ in groups["no effect"]])
    if unpaired:
        found.append(f"No seed in common with {table.reference}: {words.listing(unpaired)}.")
    return found


def _group(members: list[tuple[Row, Difference]]) -> str:
    """Each method with its difference. Many methods get names and a range, a crowd gets its number and a range."""
    if len(members) < MANY:
        return "; ".join(f"{row.label} by {_size(difference)}" for row, difference in members)
    ranked = sorted(members, key=lambda member: member[1].mean)
    ends = [
        f"{words.number(difference.mean, signed=True)} ({row.label})" for row, difference in (ranked[0], ranked[-1])
    ]
    who = words.listing([row.label for row, _ in members]) if len(members) < CROWD else f"{len(members)} methods"
    return f"{who}, with differences from {ends[0]} to {ends[1]}"


def _size(difference: Difference) -> str:
    """The size of a difference with its interval, both without a sign, since the sentence gives the direction."""
    if difference.low is None or difference.high is None:
        return words.number(difference.mean, signed=True)
    if difference.verdict == "not settled":
        return f"{words.number(difference.mean, signed=True)} ({_range(difference)})"
    ends = sorted((abs(difference.low), abs(difference.high)))
    return f"{words.number(abs(difference.mean))} ({INTERVAL} {words.number(ends[0])} to {words.number(ends[1])})"


def _range(estimate: Difference) -> str:
    return words.interval(estimate, signed=True)


def _leader(table: Table) -> list[str]:
    """The best mean, and whether its lead over the next is settled."""
    sign = -1 if table.experiment.shown.higher_is_better else 1
    ranked = sorted((r for r in table.rows if math.isfinite(r.final.mean)), key=lambda r: sign * r.final.mean)
    if len(ranked) < 2:
        return []
    best, second = ranked[:2]
    scores = [final_scores(table.experiment, row.method) for row in (best, second)]
    lead = paired_difference(scores[0], scores[1], bounds=table.experiment.shown.bounds)
    said = f"{best.label} has the best mean ({words.number(best.final.mean)})"
    if lead is None or lead.low is None:
        return [f"{said}, before {second.label} ({words.number(second.final.mean)})."]
    if lead.verdict == "no effect":
        return [f"{said}, and {second.label} has the same score on every seed."]
    if lead.standing(table.experiment.shown.higher_is_better) == "better":
        return [f"{said}, ahead of {second.label} by {_size(lead)}."]
    return [f"{said}, but its order with {second.label} is not settled: they differ by {_size(lead)}."]


def _without_effect(table: Table, rows: Sequence[Row]) -> list[str]:
    """Methods whose scores equal the reference's: throughout, as those of one that waits too long, or at the end."""
    experiment, reference = table.experiment, table.reference
    if reference is None:
        return []
    known = _traces(experiment, reference)
    always: list[str] = []
    last: list[str] = []
    for row in rows:
        traces = _traces(experiment, row.method)
        same = all(traces[seed] == known[seed] for seed in traces.keys() & known.keys())
        (always if same else last).append(row.label)
    found = []
    if always:
        found.append(
            f"Without any effect at these settings, as the scores equal those of {reference} at every evaluation of "
            f"every seed: {words.listing(always)}."
        )
    if last:
        found.append(
            f"No effect on the final score, which equals that of {reference} on every seed: {words.listing(last)}."
        )
    return found


def _traces(experiment: Experiment, method: str) -> dict[int, list[tuple[object, ...]]]:
    """Every score of the common phases in order, by seed."""
    key = experiment.shown.score
    return {
        seed: [(r["step"], r["event"], r[key]) for r in run.records if key in r and r["phase"] < experiment.phases]
        for seed, run in experiment.runs[method].items()
    }


def _not_finite(table: Table) -> list[str]:
    broken = [row.label for row in table.rows if not math.isfinite(row.final.mean)]
    return [f"Not finite in at least one seed, so without a mean: {words.listing(broken)}."] if broken else []


def _cautions(table: Table) -> list[str]:
    experiment = table.experiment
    compared = sum(row.difference is not None and row.difference.low is not None for row in table.rows)
    short = dict.fromkeys(run.info.environment.get("shortfall") for run in experiment)
    found = [f"Beware: {text}." for text in short if text]
    if compared >= MANY:
        found.append(
            f"{compared} intervals are shown; each of them misses the true difference in 1 of {round(1 / (1 - LEVEL))} "
            "experiments. The verdicts better and worse are corrected for that (Holm)."
        )
    if experiment.unfinished:
        who = "all others" if experiment.left_out else "all"
        found.append(
            f"Unfinished: {words.count(len(experiment.unfinished), 'run')} still to be completed, so everything here "
            f"ends with {experiment.shown.phase_label} {experiment.phases}, the last that {who} have completed."
        )
    unsealed = [run for run in experiment if run.finished and not run.sealed]
    if unsealed:
        found.append(
            f"Not known to be whole: {_names(unsealed)}. An older version finished "
            f"{'it' if len(unsealed) == 1 else 'them'} without the number and hash of the records, so that a lost line "
            "would not be noticed."
        )
    if experiment.left_out:
        found.append(f"Left out, as no phase with their method is completed: {_names(experiment.left_out)}.")
    return found


def _names(runs: Sequence[RunData]) -> str:
    if len(runs) >= CROWD:
        return words.count(len(runs), "run")
    return "; ".join(f"{run.info.method}, seed {run.info.seed}" for run in runs)
