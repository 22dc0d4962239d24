"""One run read for a report: every field checked, every name printable, every number finite or marked as not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from replastic import learners
from replastic.errors import UnknownNameError
from replastic.records import (
    METRIC,
    RECORDS,
    RUN,
    STATISTICS,
    Event,
    Record,
    RunDirectory,
    RunInfo,
    damaged,
    metric_name,
)
from replastic.report.statistics import FREE, Bounds
from replastic.text import printable, shown

STEP = ("step", "optimizer updates")
"""The axis of runs whose run.json names none."""
LAST, PHASES = "last", "phases"
"""The tasks of a run: its last phase, or each phase with its method. See `RunInfo.summary`."""
NAME, TEXT = 300, 20_000
"""Longest name and longest text in characters. More is damage: no page or terminal could show it."""
DEPTH = 12
"""Deepest nesting of the settings."""
CURVES, MEASURES = 50, 200
"""Most curves that a run asks for, and most measures of the whole network that it has: each becomes a plot."""
HUGE, TINY = 1e100, 1e-100
"""Measures beyond the first are not finite for a report, those below the second are zero: their squares would be."""


@dataclass(frozen=True)
class Presentation:
    """The presentation of the runs: `RunInfo.summary` with its defaults."""

    score: str
    score_label: str
    event: str = Event.PHASE_END
    higher_is_better: bool = True
    phase_label: str = "phase"
    curves: tuple[str, ...] = ()
    """Metric keys to draw over the phases, beside the score."""
    axis: str = STEP[0]
    """Record key of how far training has come: the x-axis of curves within the phases."""
    axis_label: str = STEP[1]
    bounds: Bounds = FREE
    """Least and largest value that the score can have."""
    statistics: tuple[str, ...] = ()
    """Statistics over runs and tasks to show, of `records.STATISTICS`."""
    tasks: str = LAST
    """The tasks of a run: its last phase, or each phase with its method."""
    game: str = ""
    """Dotted name of the setting that tells runs of one game from those of another; empty where there is none."""
    phase_names: tuple[str, ...] = ()
    """Name of each phase, where these are tasks of several kinds."""
    further: Mapping[str, str] = field(default_factory=dict)
    """Labels of further scores of the same kind, by metric key: they have columns and learning curves of their own."""

    def label(self, key: str) -> str:
        """Label of a further score: as declared, or ``accuracy: all`` for ``metric/accuracy_all``."""
        if key in self.further:
            return self.further[key]
        name, which = (metric_name(part).replace("_", " ") for part in (self.score, key.removeprefix(f"{self.score}_")))
        return f"{name}: {which}"

    @classmethod
    def of(cls, info: RunInfo, file: Path = Path(RUN)) -> Presentation:
        """Read it from run.json. Settings that older runs lack are those of their learner, if it is known.

        Raises:
            UserError: A field is missing or has another type. The message names `file` and the field.
        """
        given = dict(info.summary)
        if "score" not in given:
            raise damaged(file, "its summary names no score")
        for name, (fits, wanted) in FIELDS.items():
            if name in given and not fits(given[name]):
                raise damaged(file, f"summary.{name} must be {wanted}, got {shown(given[name])}")
        score = given["score"]
        known = {name: given[name] for name in FIELDS if name in given}
        bounds = known.pop("score_bounds", None) or _declared(info, score)
        known["curves"] = tuple(dict.fromkeys(key for key in given.get("curves", ()) if key != score))
        known |= {name: tuple(known[name]) for name in ("statistics", "phase_names") if name in known}
        known.setdefault("score_label", metric_name(score))
        if known.get("axis", STEP[0]) != STEP[0]:
            known.setdefault("axis_label", known["axis"].replace("_", " "))
        return cls(bounds=(bounds[0], bounds[1]), **known)


@dataclass(frozen=True)
class RunData:
    """One run: its settings and its records."""

    path: Path
    info: RunInfo
    records: tuple[Record, ...]
    finished: bool
    sealed: bool = True
    """Whether a finished run said what its records were; see `RunDirectory.sealed`."""

    @property
    def shown(self) -> Presentation:
        """How to present it."""
        return Presentation.of(self.info, self.path / RUN)

    def phases(self, event: str, key: str) -> dict[int, float]:
        """Value of a measure at an event, by phase. If a phase has several records, the last one counts."""
        return {
            r["phase"]: float(r[key]) for r in self.records if r["event"] == event and key in r and r[key] is not None
        }

    def seconds(self, event: str, phase: int) -> float | None:
        """Seconds since the run began, at the event of that phase."""
        values = [r["seconds"] for r in self.records if r["event"] == event and r["phase"] == phase and "seconds" in r]
        return float(values[-1]) if values else None


def read(directory: RunDirectory) -> RunData:
    """The run with the numbers of its records. Tables and curves show no lists (spectra), so these are left out.

    Raises:
        UserError: A file is damaged, or a field has a type that no run has. The message names the file and the field.
    """
    file = directory.path / RUN
    known = directory.info()
    for name in ("benchmark", "method"):
        if not _is_name(getattr(known, name)):
            raise damaged(file, f"{name} must be {_A_NAME}, got {shown(getattr(known, name))}")
    parts = {name: _clean(getattr(known, name), file, name) for name in ("config", "summary", "environment", "command")}
    info = replace(known, benchmark=printable(known.benchmark), method=printable(known.method), **parts)
    for name, (fits, wanted) in SETTINGS.items():
        if name in info.config and not fits(info.config[name]):
            raise damaged(file, f"config.{name} must be {wanted}, got {shown(info.config[name])}")
    shortfall = info.environment.get("shortfall", "")
    if not isinstance(shortfall, str):
        raise damaged(file, f"environment.shortfall must be a text, got {shown(shortfall)}")
    axis = Presentation.of(info, file).axis
    records = tuple(_record(record, axis, directory.path / RECORDS) for record in directory.records())
    measures = {name for record in records for name in record if name.startswith(METRIC) and name.count("/") == 1}
    if len(measures) > MEASURES:
        raise damaged(directory.path / RECORDS, f"it has {len(measures)} measures of the network, more than {MEASURES}")
    return RunData(directory.path, info, records, directory.done, directory.sealed)


def _record(record: Record, axis: str, file: Path) -> Record:
    """A record with clean names and without lists. Its numbers are what a report can calculate with."""
    found: Record = {}
    for name, value in record.items():
        if not _is_name(name):
            raise damaged(file, f"the name of a measure must be {_A_NAME}, got {shown(name)}")
        if name.startswith(METRIC):
            if not isinstance(value, list):
                found[printable(name)] = None if value is None else _number(value)
        elif not isinstance(value, list | dict):
            found[printable(name)] = _number(value) if name == "seconds" else value
    where = found.get(axis)
    if isinstance(where, bool) or not isinstance(where, int | float) or not abs(where) <= HUGE:
        raise damaged(file, f"a line has no number {axis!r}, the axis that {RUN} names, but {shown(where)}")
    return found


def _number(value: float) -> float:
    """The number as a report calculates with it."""
    if abs(value) > HUGE:
        return math.inf if value > 0 else -math.inf
    return 0.0 if abs(value) < TINY else float(value)


def _clean(value: Any, file: Path, field: str, depth: int = 0) -> Any:
    """A value of run.json with all its texts printable."""
    if isinstance(value, str):
        if len(value) > TEXT:
            raise damaged(file, f"{field} is a text of {len(value)} characters, more than {TEXT}")
        return printable(value)
    if depth > DEPTH:
        raise damaged(file, f"{field} is nested more than {DEPTH} levels deep")
    if isinstance(value, Mapping):
        for name in value:
            if not _is_name(name):
                raise damaged(file, f"a name in {field} must be {_A_NAME}, got {shown(name)}")
        top = depth == 0
        return {
            printable(name): _clean(of, file, f"{field}.{printable(name)}" if top else field, depth + 1)
            for name, of in value.items()
        }
    if isinstance(value, list):
        return [_clean(of, file, field, depth + 1) for of in value]
    return value


def _declared(info: RunInfo, score: str) -> Bounds:
    """The bounds that the learner of a run declares for its score; none if it is not known here."""
    name = info.config.get("learner")
    try:
        declared = learners.get(name).score if isinstance(name, str) else None
    except UnknownNameError:
        return FREE
    return declared.bounds if declared is not None and declared.key == score else FREE


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= NAME


def _is_key(value: object) -> bool:
    return _is_name(value) and str(value).startswith(METRIC)


def _is_list(value: object, fits: Callable[[object], bool], most: int) -> bool:
    return isinstance(value, list | tuple) and len(value) <= most and all(map(fits, value))


def _is_labels(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) <= CURVES
        and all(map(_is_key, value))
        and (all(map(_is_name, value.values())))
    )


def _is_bounds(value: object) -> bool:
    if not isinstance(value, list | tuple) or len(value) != 2:
        return False
    ends = [end for end in value if end is not None]
    return all(type(end) in (int, float) and abs(end) <= HUGE for end in ends) and (len(ends) < 2 or ends[0] < ends[1])


_A_NAME = f"a name of 1 to {NAME} characters"
Check = tuple[Callable[[Any], bool], str]
FIELDS: dict[str, Check] = {
    "score": (_is_key, f"the key of a measure ({METRIC}NAME)"),
    "score_label": (_is_name, _A_NAME),
    "event": (lambda value: value in [*Event], f"one of {', '.join(Event)}"),
    "higher_is_better": (lambda value: isinstance(value, bool), "true or false"),
    "phase_label": (_is_name, _A_NAME),
    "curves": (
        lambda value: _is_list(value, _is_key, CURVES),
        f"a list of at most {CURVES} keys of measures ({METRIC}NAME)",
    ),
    "axis": (_is_name, _A_NAME),
    "axis_label": (_is_name, _A_NAME),
    "score_bounds": (_is_bounds, "two ascending numbers, either of them null"),
    "statistics": (
        lambda value: _is_list(value, lambda one: one in STATISTICS, len(STATISTICS)),
        f"a list of some of {', '.join(STATISTICS)}",
    ),
    "tasks": (lambda value: value in (LAST, PHASES), f"{LAST} or {PHASES}"),
    "game": (lambda value: value == "" or _is_name(value), "the dotted name of a setting"),
    "further": (_is_labels, "labels by keys of measures"),
    "phase_names": (lambda value: _is_list(value, _is_name, TEXT), "a list of names"),
}
"""Fields of `RunInfo.summary`, each with its check and the words for what it must be."""
SETTINGS: dict[str, Check] = {
    "methods_from": (lambda value: type(value) is int and value >= 0, "a whole number from 0 on"),
    "boundary_metrics": (lambda value: _is_list(value, _is_name, MEASURES), f"a list of at most {MEASURES} names"),
}
"""Settings that a report needs, in the same form."""
