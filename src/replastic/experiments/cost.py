"""The cost of an experiment, before it begins: from finished runs, else from a few updates timed here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import mean

import torch

from replastic.experiments.runs import Job
from replastic.learners import Extent
from replastic.training.failures import memory_in_words
from replastic.training.speed import Trial

BUDGET = 2.0
"""Seconds that timing updates may take, if one of them does not take longer."""


@dataclass(frozen=True)
class Expected:
    """How long the runs to do will take."""

    seconds: float
    by: str
    """Where the number comes from."""


def expected(jobs: Sequence[Job], shared: Sequence[Job], todo: Sequence[Job], workers: int) -> Expected:
    """Time on the clock that `shared` and then `todo` take in `workers` processes, if each has a core to itself.

    Args:
        jobs: Every run, the finished ones too.
        shared: First phases to train before the runs.
        todo: Runs to finish.
        workers: Processes.
    """
    first = jobs[0]
    phases = _phases(first)
    begin = first.protocol.methods_from
    finished = [job for job in jobs if job.directory.done]
    if finished:
        ends = [_reached(job, begin) for job in finished]
        ahead = mean(before for before, _ in ends)
        taken: dict[str, list[float]] = {}
        for job, (before, after) in zip(finished, ends, strict=True):
            taken.setdefault(job.method, []).append(after - before)
        usual = mean(after - before for before, after in ends)
        own = {job.method: mean(taken.get(job.method, [usual])) for job in todo}
        by = "by the runs that are finished"
    else:
        seconds = _timed(first, phases)
        ahead, own = sum(seconds[:begin]), {job.method: sum(seconds[begin:]) for job in todo}
        by = "by timing the network here, without what methods and measures add"
    times = [
        [ahead * (1 - _share(job, phases[:begin])) for job in shared],
        [own[job.method] * (1 - _share(job, phases[begin:], phases[:begin])) for job in todo],
    ]
    return Expected(sum(_span(part, workers) for part in times), by)


def _phases(job: Job) -> list[Extent]:
    """How long each phase of a run lasts."""
    task = job.protocol.task
    learner = task.learner(task.open(), job.seed, replace(job.protocol.trainer, compiled=False))
    return [learner.extent(index) for index in range(task.phases)]


def _scored(index: int, extent: Extent) -> int:
    """Samples that are scored in a phase, over all its evaluations."""
    around = 2 if index else 0  # before and after what the method does at the boundary
    examined = (2 if index else 1) * extent.examined
    return (len(extent.marks) + around) * extent.scored + extent.scored_last + examined


def _timed(job: Job, phases: Sequence[Extent]) -> list[float]:
    """Seconds of each phase, by a few updates and one evaluation in a process that does as a worker does."""
    with one_thread(), memory_in_words(job.protocol.trainer, job.device):
        trial = Trial(job.protocol, job.protocol.task.open(job.device), job.device)
        first, update = trial.seconds(1), trial.seconds(1)
        if update < BUDGET:
            update = trial.seconds(max(1, min(20, int(BUDGET / update))))
        score = trial.evaluation_seconds()
    times = [phase.updates * update + _scored(index, phase) * score for index, phase in enumerate(phases)]
    for start in {0, job.protocol.methods_from}:  # a process begins with the shared phases, or after them
        times[start] += max(0.0, first - update)
    return times


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute as a worker does, for the length of a `with` block."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _reached(job: Job, begin: int) -> tuple[float, float]:
    """Seconds that a finished run took up to the end of the shared phases, and in all."""
    records = job.directory.records()
    before = [record.get("seconds", 0.0) for record in records if record["phase"] < begin]
    return (before[-1] if before else 0.0), records[-1].get("seconds", 0.0)


def _share(job: Job, phases: Iterable[Extent], before: Iterable[Extent] = ()) -> float:
    """Share of the updates of `phases`, which follow those of `before`, that are done."""
    records, first = job.directory.records(), sum(phase.updates for phase in before)
    done = max(0, records[-1]["step"] - first) if records else 0
    return min(1.0, done / max(1, sum(phase.updates for phase in phases)))


def _span(times: Sequence[float], workers: int) -> float:
    """Time on the clock if each job, in this order, goes to the worker that is free first."""
    ends = [0.0] * max(1, min(workers, len(times)))
    for seconds in times:
        ends[ends.index(min(ends))] += seconds
    return max(ends)
