"""Compares two folders, or two methods of one folder, seed by seed: the difference, its interval, a conclusion."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from replastic.errors import UserError
from replastic.report import aggregates, measures, words
from replastic.report.experiment import Experiment, Paths, differences, load_games
from replastic.report.games import Games
from replastic.report.statistics import (
    INTERVAL,
    Difference,
    Estimate,
    Standing,
    corrected,
    mean_interval,
    paired_difference,
    probability_of_improvement,
)
from replastic.report.tables import final_table
from replastic.text import json_ready

CONCLUSIONS: dict[Standing, str] = {
    "better": "better",
    "worse": "worse",
    "weakly better": "weakly better, as it fails Holm's correction for all of these comparisons",
    "weakly worse": "weakly worse, as it fails Holm's correction for all of these comparisons",
    "no effect": "no effect, the scores are equal",
    "not settled": "not settled, the interval includes zero",
    "one seed": "one seed, so nothing is settled",
    "not finite": "a score is not finite",
}


FINAL, MEAN = "final", "mean"
SCORES: dict[str, Callable[[Experiment, str], dict[int, float]]] = {
    FINAL: measures.final_scores,
    MEAN: measures.mean_scores,
}
"""The scores that can be compared, by seed: at the end of the last phase, and the mean over the ends of all phases."""


@dataclass(frozen=True)
class Pair:
    """One comparison over the common seeds, of one game. `difference` is b minus a."""

    a: str
    b: str
    seeds: tuple[int, ...]
    mean_a: Estimate
    mean_b: Estimate
    difference: Difference
    improvement: float
    """Probability that a run of b beats a run of a, over all pairs of all their seeds; a tie counts one half."""
    game: str = ""


@dataclass(frozen=True)
class Overall:
    """Two methods over all runs and tasks, for benchmarks that ask for such statistics. See `aggregates`."""

    a: str
    b: str
    iqm_a: Estimate
    iqm_b: Estimate
    improvement: Estimate
    """Probability that a run of b does better than one of a on the same task."""


@dataclass(frozen=True)
class Comparison:
    """All pairs of one comparison, with the facts that a reader needs beside the numbers."""

    benchmark: str
    score_label: str
    higher_is_better: bool
    phases: int
    phase_label: str
    pairs: tuple[Pair, ...]
    settings: tuple[str, ...]
    """Settings in which the two folders differ."""
    only_a: tuple[str, ...] = ()
    only_b: tuple[str, ...] = ()
    compared: str = FINAL
    """The score that is compared, one of `SCORES`."""
    overall: tuple[Overall, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The content for JSON, each pair with its conclusion. Numbers that are not finite become null."""
        content = asdict(self)
        for pair, entry in zip(self.pairs, content["pairs"], strict=True):
            entry["standing"] = pair.difference.standing(self.higher_is_better)
        return dict(json_ready(content))

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def compare(a: Paths, b: Paths | None = None, *, methods: Sequence[str] = (), score: str = FINAL) -> Comparison:
    """Compare two experiments method by method, or the methods of one experiment with the first of them.

    Scores are those of the phases that every run on both sides has completed. Runs of several games are compared game
    by game, in the games that both sides have.

    Args:
        a: Folder (or folders) of runs.
        b: Second folder. Differences are b minus a, for every method that both have. None compares inside `a`.
        methods: With `b`, the methods to compare; empty for all common ones. Without `b`, at least two methods: each
            is compared with the first.
        score: ``final``, at the end of the last phase, or ``mean`` over the ends of all phases.

    Raises:
        UserError: The folders have different benchmarks or scores, or no method and seed in common, or a method is
            unknown.
    """
    if score not in SCORES:
        raise UserError(f"score must be one of {', '.join(SCORES)}, got {score!r}")
    first = load_games(a)
    second = first if b is None else load_games(b)
    if b is None and len(methods) < 2:
        known = next(iter(first.values())).methods
        raise UserError(f"give a second folder, or two of the methods: {', '.join(known)}")
    sides = {game: _cut(first[game], second[game]) for game in first if game in second}
    if not sides:
        _check(*(next(iter(side.values())) for side in (first, second)))
        raise UserError(f"no game in common: {', '.join(first)} against {', '.join(second)}")
    specs = {game: _specs(*side, methods, inside=b is None) for game, side in sides.items()}
    pairs = [_pair(*sides[game], *spec, score=score, game=game) for game, of in specs.items() for spec in of]
    return _comparison(sides, pairs, _overall(sides, [*specs.values()]), score)


def _cut(a: Experiment, b: Experiment) -> tuple[Experiment, Experiment]:
    """Both sides, up to the phases that both have completed."""
    _check(a, b)
    phases = min(a.phases, b.phases)
    return a.until(phases), b.until(phases)


def _specs(a: Experiment, b: Experiment, methods: Sequence[str], *, inside: bool) -> list[tuple[str, str]]:
    """The methods to compare, one of each side."""
    if inside:
        reference, *others = (a.spec(name) for name in methods)
        return [(reference, other) for other in others]
    chosen = [a.spec(name) for name in methods] or [m for m in a.methods if m in b.runs]
    if not chosen:
        raise UserError(f"no method in common: {', '.join(a.methods)} against {', '.join(b.methods)}")
    return [(method, b.spec(method)) for method in chosen]


def _check(a: Experiment, b: Experiment) -> None:
    for fact, x, y in (
        ("benchmarks", a.benchmark, b.benchmark),
        ("scores", a.shown.score, b.shown.score),
        ("directions of the score", a.shown.higher_is_better, b.shown.higher_is_better),
    ):
        if x != y:
            raise UserError(f"the two folders hold different {fact}: {x!r} and {y!r}; they cannot be compared")


def _comparison(
    sides: Mapping[str, tuple[Experiment, Experiment]], pairs: list[Pair], overall: Sequence[Overall], score: str
) -> Comparison:
    a, b = next(iter(sides.values()))
    tested = corrected([pair.difference for pair in pairs])
    pairs = [replace(pair, difference=one) for pair, one in zip(pairs, tested, strict=True) if one is not None]
    return Comparison(
        benchmark=a.benchmark,
        score_label=a.shown.score_label,
        higher_is_better=a.shown.higher_is_better,
        phases=a.phases,
        phase_label=a.shown.phase_label,
        pairs=tuple(pairs),
        settings=tuple(differences(a.settings, b.settings)),
        only_a=tuple(m for m in a.methods if m not in b.runs),
        only_b=tuple(m for m in b.methods if m not in a.runs),
        compared=score,
        overall=tuple(overall),
    )


def _pair(a: Experiment, b: Experiment, method_a: str, method_b: str, *, score: str, game: str) -> Pair:
    scores_a, scores_b = SCORES[score](a, method_a), SCORES[score](b, method_b)
    bounds = a.shown.bounds
    difference = paired_difference(scores_b, scores_a, bounds=bounds)
    if difference is None:
        raise UserError(
            f"{method_a!r} and {method_b!r} have no seed in common: {sorted(scores_a)} and {sorted(scores_b)}"
        )
    seeds = tuple(sorted(scores_a.keys() & scores_b.keys()))
    improvement = probability_of_improvement(list(scores_a.values()), list(scores_b.values()))
    return Pair(
        a=method_a,
        b=method_b,
        seeds=seeds,
        mean_a=mean_interval([scores_a[seed] for seed in seeds], bounds=bounds),
        mean_b=mean_interval([scores_b[seed] for seed in seeds], bounds=bounds),
        difference=difference,
        improvement=improvement if a.shown.higher_is_better else 1 - improvement,
        game=game,
    )


def _overall(
    sides: Mapping[str, tuple[Experiment, Experiment]], specs: Sequence[Sequence[tuple[str, str]]]
) -> list[Overall]:
    """The statistics over runs and tasks for the pairs that every game has, where the benchmark asks for them."""
    if not next(iter(sides.values()))[0].shown.statistics:
        return []
    a, b = (Games({game: final_table(side[i]) for game, side in sides.items()}) for i in (0, 1))
    scale = a.scale_with(b)
    found = []
    for one, other in (spec for spec in specs[0] if all(spec in others for others in specs)):
        x, y = a.scores(one, scale), b.scores(other, scale)
        if x is not None and y is not None:
            first, second = (a.natural(aggregates.iqm(scores.values)) for scores in (x, y))
            found.append(Overall(one, other, first, second, aggregates.improvement(x.values, y.values)))
    return found


def _lines(comparison: Comparison) -> list[str]:
    """The comparison as plain text."""
    when = f"after {comparison.phase_label} {comparison.phases}"
    if comparison.compared == MEAN:
        when = f"mean over {words.count(comparison.phases, comparison.phase_label)}"
    lines = [f"{comparison.benchmark}: {comparison.score_label} {when}", ""]
    for pair in comparison.pairs:
        name = pair.b if pair.a == pair.b else f"{pair.b} minus {pair.a}"
        interval = words.interval(pair.difference, signed=True)
        lines.append(
            f"{f'{pair.game}: ' if pair.game else ''}{name}: "
            f"{words.number(pair.mean_a.mean)} -> {words.number(pair.mean_b.mean)}, "
            f"difference {words.number(pair.difference.mean, signed=True)} "
            f"(paired {INTERVAL} {interval}, {words.count(pair.difference.n, 'seed')}): "
            f"{CONCLUSIONS[pair.difference.standing(comparison.higher_is_better)]}"
        )
    if comparison.overall:
        lines += ["", f"over all runs and tasks ({INTERVAL}s of the stratified bootstrap):"]
        lines += [f"  {_in_words(one)}" for one in comparison.overall]
    if comparison.settings:
        lines += ["", "settings that differ (a and b):", *(f"  {line}" for line in comparison.settings)]
    for side, only in (("a", comparison.only_a), ("b", comparison.only_b)):
        if only:
            lines.append(f"only in {side}: {', '.join(only)}")
    return [words.plain(line) for line in lines]


def _in_words(one: Overall) -> str:
    """One line on the statistics of two methods."""
    name = one.b if one.a == one.b else f"{one.b} against {one.a}"
    a, b, better = (f"{words.number(e.mean)} ({words.interval(e)})" for e in (one.iqm_a, one.iqm_b, one.improvement))
    return f"{name}: interquartile mean {a} -> {b}, probability of improvement {better}"
