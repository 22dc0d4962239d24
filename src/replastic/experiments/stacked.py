"""Runs of an experiment that are trained as one: which can be, whether it pays here, and how a worker does it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean
from typing import Any

from replastic import methods
from replastic.errors import UserError
from replastic.experiments.cost import one_thread
from replastic.experiments.listener import Listener
from replastic.experiments.runs import LOG, Job, prepare
from replastic.parallel import distributed
from replastic.registry import plugins_named
from replastic.training import stacked
from replastic.training.failures import memory_in_words
from replastic.training.loop import Segment, course
from replastic.training.session import Session
from replastic.training.together import train_together

GAIN = 1.1
"""An update must be so many times as fast as in the plain loop for runs to be trained as one."""
LARGEST = 16
"""Most runs that a probe tries to train as one."""
ROUNDS = 5
UPDATES = 8
"""Of every run, timed together in each round."""
TOLERANCE = 1e-3
"""By how much, relatively, the first losses may differ from those of the plain loop."""


@dataclass(frozen=True)
class Stacking:
    """How many runs are trained as one, and why so many."""

    runs: int = 1
    """Most runs that are trained as one; 1 for none."""
    asked: str = ""
    """The choice that was asked for: auto, or a number; empty if nothing was."""
    alone: Mapping[str, str] = field(default_factory=dict)
    """Methods whose runs are trained one by one, by spec, each with the reason."""
    milliseconds: Mapping[int, float] = field(default_factory=dict)
    """Time of an update of one network by the number of runs; 1 is the plain loop. Empty without a probe."""

    def record(self) -> dict[str, Any]:
        """As it goes into a JSON file."""
        times = {str(runs): round(value, 4) for runs, value in self.milliseconds.items()}
        return {"asked": self.asked, "runs": self.runs, "alone": dict(self.alone), "milliseconds_per_update": times}

    def in_words(self) -> str:
        """The choice, the times behind it, and what stays out; empty if nothing was asked for."""
        if not self.asked:
            return ""
        found = "runs are trained one by one" if self.runs == 1 else f"up to {self.runs} runs are trained as one"
        times = ", ".join(f"{runs} {value:.3g}" for runs, value in self.milliseconds.items())
        lines = [f"stacked: {found}" + (f" (ms for an update of one network, by runs: {times})" if times else "")]
        return "\n".join([*lines, *(f"stacked: {spec} trains alone, as {why}" for spec, why in self.alone.items())])


def settle(jobs: Sequence[Job], asked: str, workers: int) -> Stacking:
    """Decide how many of these runs to train as one.

    Args:
        jobs: Runs to do, of one protocol.
        asked: ``never``; ``auto``, to choose by timing some updates here; or a number of runs.
        workers: Processes that share the runs: none is to be idle for another's stack.

    Raises:
        UserError: Something else was asked for.
    """
    most = _number(asked)
    if asked == "never" or not jobs:
        return Stacking()
    if distributed.launched():
        raise UserError("--stack is for processes with a run each; under torchrun they share every run")
    first = jobs[0]
    with one_thread(), memory_in_words(first.protocol.trainer, first.device):
        source = first.protocol.task.open(first.device)
        reasons = {spec: _obstacle(first, spec, source) for spec in dict.fromkeys(job.method for job in jobs)}
        alone = {spec: reason for spec, reason in reasons.items() if reason}
        able = [job for job in jobs if job.method not in alone]
        share = -(-len(able) // max(1, workers))
        if most is not None:
            return Stacking(max(1, min(most, share)), asked, alone)
        times = _probe(_sizes(share), able, source) if share > 1 else {}
    best = min(times, key=lambda runs: times[runs], default=1)
    return Stacking(best if times and times[1] >= GAIN * times[best] else 1, asked, alone, times)


def carry_out(
    stacking: Stacking, jobs: Mapping[str, Job], listener: Listener, work: Callable[..., dict[str, str]]
) -> set[str]:
    """Train the jobs that can be in stacks, and return the names of those that are done.

    What failed in a stack is among the others: trained once more by itself, it goes on from its last state and either
    succeeds or says what is wrong.

    Args:
        stacking: How many are trained as one, and which are not.
        jobs: The jobs by name.
        listener: Is told how far they are.
        work: `parallel.workers.work`, but for the jobs, the function and whom to tell.
    """
    able = [job for job in jobs.values() if job.method not in stacking.alone or job.until is not None]
    size = stacking.runs
    stacks = [able[first : first + size] for first in range(0, len(able), size)] if size > 1 else []
    named = {stack[0].name: tuple(stack) for stack in stacks if len(stack) > 1}
    done: set[str] = set()

    def progress(name: str, phases: float) -> None:
        for job in named[name]:
            listener.progress(job.name, phases)

    def ended(name: str, problem: str) -> None:
        finished = [job.name for job in named[name] if job.ready]
        done.update(finished)
        for one in finished:
            listener.ended(one, "")
        left = len(named[name]) - len(finished)
        if left:
            why = f" ({problem.strip().splitlines()[-1]})" if problem else ""
            listener.noted(f"stacked: {left} of {len(named[name])} runs as one did not finish{why}; each goes on alone")

    if named:
        work(named, execute, progress=progress, ended=ended)
    return done


def execute(jobs: tuple[Job, ...], report: Callable[[float], None]) -> None:
    """Train jobs of one protocol as one, from wherever a killed process left each. Body of a worker."""
    first = jobs[0]
    reached = dict.fromkeys(range(len(jobs)), 0.0)

    def tell(index: int, phases: float) -> None:
        reached[index] = phases
        report(fmean(reached.values()))

    with plugins_named(), memory_in_words(first.protocol.trainer, first.device):
        source = first.protocol.task.open(first.device)
        runs = []
        for index, job in enumerate(jobs):
            prepare(job, source, stacked=len(jobs))
            shared = job.shared()
            runs.append(
                course(
                    job.protocol,
                    source,
                    methods.from_spec(job.method),
                    job.seed,
                    job.directory,
                    device=job.device,
                    until=job.until,
                    start=shared.directory if shared else None,
                    progress=partial(tell, index),
                    share=1 / len(jobs),
                )
            )
        train_together(runs)
    for job in jobs:
        if job.ready:
            (job.directory.path / LOG).unlink(missing_ok=True)


def _number(asked: str) -> int | None:
    """The number of runs that was asked for; None for words."""
    if asked in ("auto", "never"):
        return None
    if asked.isascii() and asked.isdigit() and int(asked) > 0:
        return int(asked)
    raise UserError(f"--stack {asked!r}: give auto, never, or a number of runs above 0")


def _sizes(share: int) -> list[int]:
    """Numbers of runs to try, where each process gets so many: those that make stacks of about equal size."""
    stacks = -(-share // LARGEST)
    found = []
    while (size := -(-share // stacks)) > 1:
        found.append(size)
        stacks *= 2
    return found


def _obstacle(job: Job, spec: str, source: Any) -> str:
    with Session(job.protocol, source, methods.from_spec(spec), job.seed, job.device) as session:
        session.begin(job.protocol.methods_from)
        return stacked.obstacle(session)


def _probe(sizes: Sequence[int], jobs: Sequence[Job], source: Any) -> dict[int, float]:
    """Milliseconds of an update of one network: in the plain loop (1), and for each number of runs as one.

    All take turns, round by round, and the fastest round counts. Sizes that do not give the losses of the plain loop,
    or fail, are left out; so is everything where none is left.
    """
    most = jobs[: max(sizes)]
    plain = [_begun(job, source) for job in most]
    stacks = {size: [_begun(job, source) for job in jobs[:size]] for size in sizes}
    best: dict[int, float] = {}
    try:
        for _ in range(ROUNDS):
            wanted, seconds = _timed(plain, together=False)
            best[1] = min(best.get(1, seconds), seconds)
            for size, sessions in list(stacks.items()):
                try:
                    found, seconds = _timed(sessions, together=True)
                except (RuntimeError, ValueError):
                    found = []
                if size not in best and not _close(found, wanted):
                    del stacks[size]
                else:
                    best[size] = min(best.get(size, seconds), seconds)
    finally:
        for session in (*plain, *(s for sessions in stacks.values() for s in sessions)):
            session.attached.close()
    return {runs: 1e3 * value for runs, value in best.items() if runs == 1 or runs in stacks} if stacks else {}


def _begun(job: Job, source: Any) -> Session:
    session = Session(job.protocol, source, methods.from_spec(job.method), job.seed, job.device)
    session.begin(job.protocol.methods_from)
    session.learner.begin(0, 0)
    return session


def _timed(sessions: Sequence[Session], *, together: bool) -> tuple[list[float], float]:
    """The losses, run by run, and seconds of an update of one network."""
    segments = [Segment(session, 0, 0, UPDATES, session.learner.extent(0)) for session in sessions]
    began = time.perf_counter()
    if together:
        stacked.train(segments)
    else:
        for segment in segments:
            segment.train()
    losses = [[float(loss) for loss in segment.losses] for segment in segments]
    return [loss for each in losses for loss in each], (time.perf_counter() - began) / UPDATES / len(sessions)


def _close(found: Sequence[float], wanted: Sequence[float]) -> bool:
    pairs = zip(found, wanted, strict=False)
    return bool(found) and all(abs(a - b) <= TOLERANCE * max(1.0, abs(b)) for a, b in pairs)
