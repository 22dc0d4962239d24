"""What an experiment will cost, told before it begins: by what has finished, else by a few updates timed here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import mean

import torch

from replastic import data
from replastic.experiments.runs import Job
from replastic.seeds import derive
from replastic.training import evaluate
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


@dataclass(frozen=True)
class _Phase:
    updates: int
    scored: int
    """Samples that are scored in it, over all its evaluations."""


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


def _phases(job: Job) -> list[_Phase]:
    splits, stream, trainer = data.load(job.protocol.data), job.protocol.stream, job.protocol.trainer
    found = []
    for index in range(len(stream)):
        phase = stream.phase(splits, index, derive(job.seed, "stream"))
        updates, marks = trainer.schedule(phase)
        each = sum(len(part) for part in phase.evaluations.values())
        around = 2 if index else 0  # before and after what the method does at the boundary
        ended = min(len(phase.train), evaluate.TRAIN_SAMPLES)
        found.append(_Phase(updates, (len(marks) + around) * each + ended))
    return found


def _timed(job: Job, phases: Iterable[_Phase]) -> list[float]:
    """Seconds of each phase, by a few updates and one evaluation in a process that does as a worker does."""
    with one_thread(), memory_in_words(job.protocol.trainer, job.device):
        splits = data.load(job.protocol.data, job.device)
        trial = Trial(job.protocol, splits, job.device)
        first, update = trial.seconds(1), trial.seconds(1)
        if update < BUDGET:
            update = trial.seconds(max(1, min(20, int(BUDGET / update))))
        score = trial.evaluation_seconds(splits.train.first(job.protocol.trainer.evaluation_chunk))
    times = [phase.updates * update + phase.scored * score for phase in phases]
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
    before = [record["seconds"] for record in records if record["phase"] < begin]
    return (before[-1] if before else 0.0), records[-1]["seconds"]


def _share(job: Job, phases: Iterable[_Phase], before: Iterable[_Phase] = ()) -> float:
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
