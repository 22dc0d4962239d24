"""Runs of several games: one final table for each, and the scores of a method over all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from replastic.report.experiment import Array, Experiment
from replastic.report.run_data import PHASES
from replastic.report.statistics import Estimate
from replastic.report.tables import Table

Ends = tuple[Array, Array]
"""Lowest and highest score of each task, (games, tasks) each."""


@dataclass(frozen=True)
class Scores:
    """Scores of one method: its runs with the seeds that it has in every game."""

    seeds: tuple[int, ...]
    values: Array
    """(seeds, games, tasks), higher is better. Of several kinds of tasks they are normalised: see `Games`."""


@dataclass(frozen=True)
class Games:
    """The final tables of runs of one benchmark by game; of runs without games there is one table, named ``""``.

    Scores of several kinds of tasks have no common scale. They are then put on one: 0 is the lowest score of all runs
    of these methods on such a task, and 1 the highest.
    """

    tables: Mapping[str, Table]

    @classmethod
    def of(cls, table: Table) -> Games:
        """The games of one table: its one."""
        return cls({table.experiment.game: table})

    @property
    def first(self) -> Table:
        """The table of the first game, for what all games share."""
        return next(iter(self.tables.values()))

    @property
    def methods(self) -> tuple[str, ...]:
        """Methods in the order of the tables that have them."""
        return tuple(dict.fromkeys(row.method for table in self.tables.values() for row in table.rows))

    @property
    def normalised(self) -> bool:
        """Whether tasks are of several kinds."""
        return len({kind for row in self._kinds for kind in row}) > 1

    def scores(self, method: str, scale: Ends | None = None) -> Scores | None:
        """The scores of a method; None if no seed of it was run on every game.

        Args:
            method: Its spec.
            scale: Lowest and highest scores with which several kinds of tasks are normalised; None for their own.
        """
        found = [self._raw(table.experiment, method) for table in self.tables.values()]
        seeds = sorted(set.intersection(*(set(by_seed) for by_seed in found)))
        if not seeds:
            return None
        values = np.array([[by_seed[seed] for by_seed in found] for seed in seeds], dtype=np.float64)
        if self.normalised:
            low, high = scale or self._ends
            values = (values - low) / np.where(high > low, high - low, 1.0)
        return Scores(tuple(seeds), values)

    def scale_with(self, other: Games) -> Ends:
        """Lowest and highest score of each task in the runs of both."""
        (low, high), (lower, higher) = self._ends, other._ends
        return np.fmin(low, lower), np.fmax(high, higher)

    def natural(self, estimate: Estimate) -> Estimate:
        """An estimate over `scores`, as the scores are shown: turned back where lower is better."""
        if self.first.experiment.shown.higher_is_better or self.normalised:
            return estimate
        low, high = (None if end is None else -end for end in (estimate.high, estimate.low))
        return Estimate(-estimate.mean, low, high, estimate.n)

    def _raw(self, experiment: Experiment, method: str) -> dict[int, Array]:
        """Scores of the tasks of each run, turned so that higher is better."""
        if method not in experiment.runs:
            return {}
        sign = 1.0 if experiment.shown.higher_is_better else -1.0
        values = sign * experiment.over_phases(method, experiment.shown.score)[:, self._tasks]
        return dict(zip(experiment.runs[method], values, strict=True))

    @cached_property
    def _tasks(self) -> list[int]:
        """The phases that are tasks: those that every game has completed."""
        phases = min(table.experiment.phases for table in self.tables.values())
        experiment = self.first.experiment
        if experiment.shown.tasks != PHASES or phases == 1:
            return [phases - 1]
        return [*range(min(max(1, experiment.first), phases - 1), phases)]

    @cached_property
    def _kinds(self) -> list[list[str]]:
        """The kind of each task, by game."""
        found = []
        for game, table in self.tables.items():
            names: Sequence[str] = table.experiment.shown.phase_names
            found.append([f"{game}/{names[task]}" if task < len(names) else game for task in self._tasks])
        return found

    @cached_property
    def _ends(self) -> Ends:
        """Lowest and highest score of each kind of task over all runs."""
        known: dict[str, list[float]] = {}
        for (_, table), kinds in zip(self.tables.items(), self._kinds, strict=True):
            for method in table.experiment.methods:
                for values in self._raw(table.experiment, method).values():
                    for kind, value in zip(kinds, values.tolist(), strict=True):
                        known.setdefault(kind, []).append(value)
        low, high = ([[end(known[kind]) for kind in row] for row in self._kinds] for end in (np.nanmin, np.nanmax))
        return np.array(low, dtype=np.float64), np.array(high, dtype=np.float64)
