"""A search over the options of methods: each combination runs with every seed, and held-out data choose the best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, fields, replace
from itertools import product
from typing import Any

import numpy as np

from replastic import methods, triggers
from replastic.errors import UnknownNameError, UserError
from replastic.experiments import when
from replastic.experiments.experiment import Plan
from replastic.experiments.spec import BenchmarkSpec
from replastic.report.experiment import HELD_OUT, points
from replastic.text import json_ready
from replastic.training import Protocol

Values = Mapping[str, Sequence[str]]
"""Values to try, as text, by ``method.option``. They replace the search values of the method."""


MOST_COMBINATIONS = 10_000
"""Of the values of one method."""


@dataclass(frozen=True)
class Candidate:
    """One combination of options and its scores."""

    spec: str
    scores: Mapping[int, float]
    """Held-out score at the end of the last phase, by seed; runs that are not finished are missing."""
    wanted: int
    """Number of seeds it was to have."""

    @property
    def mean(self) -> float:
        """Mean over all seeds. NaN if a seed is missing or diverged, so that no candidate wins by its easy seeds."""
        return float(np.mean([*self.scores.values()])) if len(self.scores) == self.wanted else math.nan


@dataclass(frozen=True)
class Search:
    """A method and its candidates, the best first; those without a mean come last."""

    method: str
    candidates: tuple[Candidate, ...]

    @property
    def best(self) -> Candidate | None:
        """The candidate with the best mean; of equal ones the first that was tried. None if no candidate has a mean."""
        first = self.candidates[0]
        return first if math.isfinite(first.mean) else None

    def to_dict(self) -> dict[str, Any]:
        """The search as best.json holds it."""
        best = self.best
        tried = [{"spec": c.spec, "held_out": c.mean, "by_seed": c.scores} for c in self.candidates]
        chosen = {"spec": best.spec, "held_out": best.mean} if best else {"spec": None, "held_out": None}
        return dict(json_ready({**chosen, "tried": tried}))


def parse_values(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Values to try, from ``method.option=v1,v2``.

    Raises:
        UserError: A text cannot be read.
    """
    found: dict[str, tuple[str, ...]] = {}
    for text in texts:
        key, equals, values = (part.strip() for part in text.partition("="))
        method, dot, option = key.partition(".")
        tried = tuple(value.strip() for value in values.split(",") if value.strip())
        if not (equals and dot and method and option and tried):
            raise UserError(f"cannot read --set {text!r}: write --set method.option=value,value")
        found[f"{method}.{option.replace('-', '_')}"] = tried
    return found


def as_in(preset: Sequence[str], text: str, values: Values) -> str:
    """A bare name with the options that the preset sets for it and that are not searched, such as ``targets``.

    Any other text is returned as it is.
    """
    plain = [spec for spec in preset if not when.split(spec)[1]]
    known = next((m for m in map(methods.from_spec, plain) if m.name == text), None)
    if known is None:
        return text
    searched = {f.name for f in fields(known) if f.metadata.get("search") or f"{text}.{f.name}" in values}
    kept = [f"{name}={getattr(known, name)}" for name in sorted(known.explicit - searched)]
    return f"{text}:{','.join(kept)}" if kept else text


def search_spaces(chosen: Sequence[str], values: Values) -> dict[str, tuple[str, ...]]:
    """Specs to try for each method: every combination of the values of its searched options.

    Args:
        chosen: Methods by spec, each with a trigger of its own if it has one; an option that a spec gives keeps its
            value. Options of a trigger are searched by ``trigger.option``.
        values: Values for an option, in place of its own search values if it has any.

    Raises:
        UserError: An unknown method or option, a value that is not allowed, or nothing to search.
    """
    unused = dict(values)
    spaces = {}
    for text in chosen:
        parts = _parts(text)
        axes = []
        for part in parts:
            axes += _axes(part, values)
            for key in [key for key in unused if key.partition(".")[0] == part.name]:
                del unused[key]
        if not axes:
            raise UserError(
                f"{text} has no option that is searched; name one with --set {parts[0].name}.OPTION=value,value"
            )
        if (count := math.prod(map(len, axes))) > MOST_COMBINATIONS:
            raise UserError(
                f"{text} has {count:,} combinations of values to try, and a search takes at most {MOST_COMBINATIONS:,}"
            )
        tried = [_with(parts, dict(combination)) for combination in product(*axes)]
        spaces[when.canonical(text)] = tuple(dict.fromkeys(tried))
    for key in unused:
        known = {part.name for text in chosen for part in _parts(text)}
        raise UnknownNameError("method in --set", key.partition(".")[0], known)
    return spaces


def search_values() -> dict[str, str]:
    """The values that each method is searched over by default, as text. Methods without any are left out."""
    found = {}
    for name in methods.names():
        tried = {f.name: f.metadata.get("search", ()) for f in fields(methods.get(name))}
        said = [f"{option} {' '.join(map(str, values))}" for option, values in tried.items() if values]
        if said:
            found[name] = "; ".join(said)
    return found


def check_held_out(spec: BenchmarkSpec, protocol: Protocol, seed: int) -> None:
    """Check that the runs will have a score to choose by.

    Raises:
        UserError: The last phase is not scored on held-out data.
    """
    task = protocol.task
    learner = task.learner(task.open(), seed, replace(protocol.trainer, compiled=False))
    if f"{spec.shown(protocol)['score']}{HELD_OUT}" not in learner.extent(task.phases - 1).scores:
        raise UserError(
            f"{spec.name} scores nothing on held-out data here, and a choice by its test score would flatter the "
            "winner: sweep a benchmark that holds data out"
        )


def searches(planned: Plan, spaces: Mapping[str, Sequence[str]]) -> list[Search]:
    """The outcome of the finished runs. Only held-out scores are read."""
    summary = planned.jobs[0].summary
    scores: dict[str, dict[int, float]] = {}
    seeds = {job.seed for job in planned.jobs}
    for job in planned.jobs:
        if job.directory.done:
            known = points(job.directory.records(), summary["score"] + HELD_OUT, summary["event"])
            if known:
                scores.setdefault(job.method, {})[job.seed] = [*known.values()][-1]
    sign = -1.0 if summary["higher_is_better"] else 1.0
    found = []
    for method, specs in spaces.items():
        candidates = [Candidate(spec, scores.get(spec, {}), len(seeds)) for spec in specs]
        candidates.sort(key=lambda c: sign * c.mean if math.isfinite(c.mean) else math.inf)
        found.append(Search(method, tuple(candidates)))
    return found


@dataclass(frozen=True)
class _Part:
    """A method of a combined one, or the trigger behind its ``@``."""

    name: str
    fields: Sequence[Field[Any]]
    given: Mapping[str, Any]
    """Options that keep their value, by name."""
    joined_by: str = "+"
    """How it follows the part before it."""


def _parts(text: str) -> list[_Part]:
    """The parts of a method's text, the trigger last."""
    alone, trigger = when.split(text)
    found = [
        _Part(part.name, fields(part), {name: getattr(part, name) for name in sorted(part.explicit)})
        for part in methods.from_spec(alone).parts
    ]
    if trigger:
        made = triggers.from_spec(trigger)
        given = {f.name: getattr(made, f.name) for f in fields(made) if getattr(made, f.name) != f.default}
        found.append(_Part(made.name, fields(made), given, joined_by="@"))
    return found


def _axes(part: _Part, values: Values) -> list[list[tuple[tuple[str, str], str]]]:
    """The searched options of one part of a method: a list of ((part, option), value as text) for each option."""
    found = []
    known = {f.name for f in part.fields}
    for key in values:
        name, _, option = key.partition(".")
        if name == part.name and option not in known:
            raise UnknownNameError(f"option of {part.name}", option, known)
    for f in part.fields:
        tried = values.get(f"{part.name}.{f.name}")
        if f.name in part.given:
            if tried is not None:
                raise UserError(f"{part.name}: {f.name} is given in the spec and in --set; leave one of them out")
            continue
        tried = tried or [str(value) for value in f.metadata.get("search", ())]
        if tried:
            found.append([((part.name, f.name), value) for value in tried])
    return found


def _with(parts: Sequence[_Part], combination: Mapping[tuple[str, str], str]) -> str:
    """The spec of these parts with these values beside what they were given."""
    spec = ""
    for part in parts:
        options = [f"{name}={value}" for name, value in part.given.items()]
        options += [f"{option}={value}" for (name, option), value in combination.items() if name == part.name]
        spec += (part.joined_by if spec else "") + (f"{part.name}:{','.join(options)}" if options else part.name)
    return when.canonical(spec)
