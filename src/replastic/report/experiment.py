"""Reads runs from their folders as one experiment. Checks that they can be compared, and lists unfinished ones."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replastic.errors import UnknownNameError, UserError
from replastic.options import name_of
from replastic.records import METRIC, Record, RunDirectory, find_runs
from replastic.report import networks
from replastic.report.run_data import STEP, Presentation, RunData, read

Paths = str | Path | Sequence[str | Path]
Array = NDArray[np.float64]

PER_RUN_SETTINGS = frozenset({"method", "seed"})
"""Keys of `RunInfo.config` in which the runs of one experiment differ."""
MEASURES = frozenset({"metrics", "boundary_metrics", "start_metrics", "start_every"})
"""Keys in which they may differ: which measures are taken, and how often. Measures leave no trace in a run."""
SAMPLES = "start_samples"
"""Key that only runs with measures at starts of phases have."""
MEANING = ("score", "event", "higher_is_better", "axis", "tasks", "game")
"""Fields of `Presentation` that the runs of one experiment must share. Labels and curves come from the first run."""
HELD_OUT = "_held_out"
"""Ending of the key of a score on held-out data. Searches use it, and no table shows it."""


@dataclass(frozen=True)
class Experiment:
    """Runs of one benchmark with equal settings, cut to the phases that all of them have completed."""

    benchmark: str
    shown: Presentation
    settings: Mapping[str, Any]
    """The configuration all runs share."""
    runs: Mapping[str, Mapping[int, RunData]]
    """Runs by method and seed: methods in the order of their first path, seeds ascending."""
    phases: int
    """Number of phases that every run of `runs` has completed. All numbers come from these phases."""
    unfinished: tuple[RunData, ...]
    """Runs that have not finished, including those left out of `runs`."""
    left_out: tuple[RunData, ...]
    """Runs that have not completed the first phase with their method; if none has, runs without a completed phase."""

    @property
    def methods(self) -> tuple[str, ...]:
        """The specs of the methods, as in run.json."""
        return tuple(self.runs)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Every seed that any method has."""
        return tuple(sorted({seed for by_seed in self.runs.values() for seed in by_seed}))

    @property
    def first(self) -> int:
        """The phase in which methods are turned on."""
        return _methods_from(self.settings)

    @property
    def game(self) -> str:
        """The game of these runs; empty where their benchmark has no games."""
        return _value(self.settings, self.shown.game)

    @property
    def epochs(self) -> bool:
        """Whether runs were evaluated after every pass over the data, so that evaluations are epochs."""
        trainer = self.settings.get("trainer")
        return isinstance(trainer, Mapping) and trainer.get("evaluate_every") == 1

    @property
    def further_scores(self) -> tuple[str, ...]:
        """Keys of scores of the same kind at the same event, without held-out data.

        They are those that the runs declare, and ``<score>_<which>``: the score on other data.
        """
        stem = f"{self.shown.score}_"
        known = self.keys(self.shown.event)
        declared = tuple(k for k in self.shown.further if k in known)
        return (*declared, *(k for k in known if k.startswith(stem) and not k.endswith(HELD_OUT) and k not in declared))

    def spec(self, method: str) -> str:
        """The spec that `method` means: the spec itself, or the only spec with that name.

        Raises:
            UnknownNameError: There is no such spec, or several; the message lists all methods.
        """
        if method in self.runs:
            return method
        found = [spec for spec in self.runs if name_of(spec) == method]
        if len(found) != 1:
            raise UnknownNameError("method of these runs", method, self.runs)
        return found[0]

    def __iter__(self) -> Iterator[RunData]:
        for by_seed in self.runs.values():
            yield from by_seed.values()

    def over_phases(self, method: str, key: str, event: str | None = None) -> Array:
        """A measure as an array (seeds, phases), NaN where it was not recorded. None means the score's event."""
        rows = []
        for run in self.runs[method].values():
            values = run.phases(event or self.shown.event, key)
            rows.append([values.get(phase, math.nan) for phase in range(self.phases)])
        return np.array(rows, dtype=np.float64).reshape(len(rows), self.phases)

    def until(self, phases: int) -> Experiment:
        """The same runs cut after the first `phases` phases."""
        return replace(self, phases=phases)

    def keys(self, event: str) -> tuple[str, ...]:
        """Every measure recorded at an event within the common phases, sorted."""
        found = {
            key for run in self for r in run.records if r["event"] == event and r["phase"] < self.phases for key in r
        }
        return tuple(sorted(key for key in found if key.startswith(METRIC)))


def load(paths: Paths, *, several_networks: bool = False) -> Experiment:
    """Read every run at or below `paths` as one experiment.

    Before their methods are turned on, all runs are alike. A run that has not come further is left out if others have,
    because all numbers come from the phases that every run has completed.

    Args:
        paths: Folders of runs.
        several_networks: Runs may differ in their network. Those on another one than the first run's then name it after
            their method, as in ``base (network: norm=layer)``.

    Raises:
        UserError: There are no runs, a file is damaged, two runs have the same method and seed, no phase is completed,
            or benchmarks or settings differ. The message names the place.
    """
    return _experiment(_read(paths, several_networks))


def load_games(paths: Paths, *, several_networks: bool = False) -> dict[str, Experiment]:
    """Read runs of several games: an experiment for each by the game's name, in the order of their paths.

    The game of a run is the value of the setting that its `Presentation.game` names; without one it is ``""``. Runs of
    different games may differ in other settings, too.

    Raises:
        UserError: See `load`; or the games are of different benchmarks or scores.
    """
    runs = _read(paths, several_networks)
    by_game: dict[str, list[RunData]] = {}
    for run in runs:
        by_game.setdefault(_game(run), []).append(run)
    for run in runs[1:]:
        _check_meaning(runs[0], run)
    return {game: _experiment(of) for game, of in by_game.items()}


def _read(paths: Paths, several_networks: bool) -> list[RunData]:
    runs = [read(directory) for directory in _directories(paths)]
    return networks.named(runs) if several_networks else runs


def _game(run: RunData) -> str:
    return _value(run.info.config, run.shown.game)


def _value(settings: Mapping[str, Any], name: str) -> str:
    """A setting by its dotted name, as text; empty without a name or such a setting."""
    return str(flatten(settings).get(name, "")) if name else ""


def _experiment(runs: Sequence[RunData]) -> Experiment:
    first = runs[0]
    shown = first.shown
    for run in runs[1:]:
        _check_comparable(first, run)
    _check_methods(runs)
    settings = _shared(first)
    reached = [_completed(run, shown) for run in runs]
    if not any(reached):
        raise UserError(
            f"none of the {len(runs)} runs has completed its first {shown.phase_label} with {shown.score!r} recorded; "
            "start them again with `replastic run` to go on, then report"
        )
    own = _methods_from(settings) + 1
    least = own if max(reached) >= own else 1
    kept = [run for run, phases in zip(runs, reached, strict=True) if phases >= least]
    by_method: dict[str, dict[int, RunData]] = {}
    for run in sorted(kept, key=lambda r: r.info.seed):
        by_method.setdefault(run.info.method, {})[run.info.seed] = run
    order = list(dict.fromkeys(run.info.method for run in kept))
    return Experiment(
        benchmark=first.info.benchmark,
        shown=shown,
        settings=settings,
        runs={method: by_method[method] for method in order},
        phases=min(phases for phases in reached if phases >= least),
        unfinished=tuple(run for run in runs if not run.finished),
        left_out=tuple(run for run, phases in zip(runs, reached, strict=True) if phases < least),
    )


def points(records: Iterable[Record], key: str, *events: str, axis: str = STEP[0]) -> dict[float, float]:
    """A measure at the given events, by place on the axis in ascending order: one value per place, NaN for a null."""
    found = {r[axis]: r[key] for r in records if r["event"] in events and key in r}
    return {place: math.nan if value is None else float(value) for place, value in sorted(found.items())}


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted names."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{name}."))
        else:
            flat[name] = value
    return flat


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """The differences between two nested settings, each as ``name: value in a and value in b``."""
    flat_a, flat_b = flatten(a), flatten(b)
    names = sorted(flat_a.keys() | flat_b.keys())
    return [
        f"{name}: {flat_a.get(name, 'absent')!r} and {flat_b.get(name, 'absent')!r}"
        for name in names
        if flat_a.get(name, "absent") != flat_b.get(name, "absent")
    ]


def _directories(paths: Paths) -> list[RunDirectory]:
    given: Iterable[str | Path] = [paths] if isinstance(paths, (str, Path)) else paths
    found = {d.path.resolve(): d for path in given for d in find_runs(path)}
    if not found:
        raise UserError("no run folder was given")
    return list(found.values())


def _completed(run: RunData, shown: Presentation) -> int:
    """Number of phases from the first on that have a score, up to the first gap."""
    scored = run.phases(shown.event, shown.score)
    return next(phase for phase in range(len(scored) + 1) if phase not in scored)


def _methods_from(settings: Mapping[str, Any]) -> int:
    known = settings.get("methods_from")
    return known if isinstance(known, int) else 0


def _shared(run: RunData) -> dict[str, Any]:
    return {key: value for key, value in run.info.config.items() if key not in PER_RUN_SETTINGS}


def _meaning(run: RunData) -> dict[str, Any]:
    shown = run.shown
    return {name: getattr(shown, name) for name in MEANING}


def _check_meaning(first: RunData, run: RunData) -> None:
    """Refuse a run of another benchmark, or whose score means something else."""
    if run.info.benchmark != first.info.benchmark:
        raise UserError(
            f"two benchmarks in one report: {first.path} is {first.info.benchmark!r}, "
            f"{run.path} is {run.info.benchmark!r}; report them one by one"
        )
    _refuse(first, run, differences(_meaning(first), _meaning(run)))


def _check_comparable(first: RunData, run: RunData) -> None:
    """Refuse a run of another benchmark or with other settings than the first, naming the difference."""
    _check_meaning(first, run)
    a, b = ({k: v for k, v in _shared(each).items() if k not in MEASURES} for each in (first, run))
    if SAMPLES not in a or SAMPLES not in b:
        a.pop(SAMPLES, None), b.pop(SAMPLES, None)
    _refuse(first, run, differences(a, b))


def _refuse(first: RunData, run: RunData, found: Sequence[str]) -> None:
    if found:
        raise UserError(
            f"{first.path} and {run.path} differ in their settings ({'; '.join(found)}), so their scores cannot be put "
            "in one table; report them one by one, or use `replastic compare`; where only the network differs, "
            "`replastic report --networks` shows both"
        )


def _check_methods(runs: Sequence[RunData]) -> None:
    """Refuse the same method and seed twice, and one method name with two sets of options."""
    twice = [key for key, count in Counter((r.info.method, r.info.seed) for r in runs).items() if count > 1]
    if twice:
        method, seed = twice[0]
        where = " and ".join(str(r.path) for r in runs if (r.info.method, r.info.seed) == twice[0])
        raise UserError(f"{method!r} with seed {seed} is there twice: {where}")
    options: dict[str, RunData] = {}
    for run in runs:
        known = options.setdefault(run.info.method, run)
        a, b = ({"method": r.info.config.get("method")} for r in (known, run))
        if found := differences(a, b):
            raise UserError(
                f"{run.info.method!r} has two sets of options: {known.path}, {run.path}: {'; '.join(found)}"
            )
