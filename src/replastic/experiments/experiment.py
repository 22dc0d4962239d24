"""A whole experiment: methods times seeds, planned, checked against what is there, carried out in parallel."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from replastic import metrics
from replastic.disk import clear_below, clear_scratch, write_text
from replastic.errors import UserError
from replastic.experiments import checks, code, stacked, when
from replastic.experiments.cost import Expected, expected
from replastic.experiments.listener import Listener
from replastic.experiments.runs import Job, execute
from replastic.experiments.spec import BenchmarkSpec
from replastic.experiments.stacked import Stacking
from replastic.parallel import distributed
from replastic.parallel.workers import gpu_names, work
from replastic.training import Protocol, resume
from replastic.training.failures import DivergedError, memory_in_words


@dataclass(frozen=True)
class Plan:
    """The runs of an experiment, both those to do and those that are done."""

    jobs: tuple[Job, ...]
    shared: tuple[Job, ...]
    """Phases that all methods share, to be trained first."""
    probe: Mapping[str, Any] | None = None
    """Measurement by which the settings of speed were chosen, kept in the folder as speed.json."""
    stacking: Stacking = field(default_factory=Stacking)
    """How many runs are trained as one; see `stacked.settle`."""
    accepted: tuple[Path, ...] = ()
    """Files of runs that were begun with other code, where it was asked for to go on nevertheless; see `code.accept`.
    """

    @property
    def todo(self) -> tuple[Job, ...]:
        """Runs that are not finished."""
        return tuple(job for job in self.jobs if not job.directory.done)

    def expected(self, workers: int) -> Expected | None:
        """Time on the clock that the runs to do will take in so many workers.

        None if no run is left, or if several processes share each run.
        """
        if not self.todo or distributed.world_size() > 1:
            return None
        return expected(self.jobs, self.shared, self.todo, workers)


def plan(
    spec: BenchmarkSpec,
    protocol: Protocol,
    chosen: Sequence[str],
    seeds: Sequence[int],
    out: str | Path,
    *,
    device: str = "cpu",
    command: str = "",
    accept_changes: bool = False,
) -> Plan:
    """List the runs and see that they fit what `out` holds.

    Args:
        spec: The benchmark.
        protocol: Its protocol, with whatever the caller changed.
        chosen: Methods by spec.
        seeds: Seeds.
        out: Folder of the experiment; runs that are there already are resumed or, when finished, skipped.
        device: Where to train.
        command: The command line, for the records.
        accept_changes: Go on with runs that were begun with other plug-ins, or other versions of torch or replastic.

    Raises:
        UserError: An unknown method or option, no seeds, or more runs or phases than anybody can wait for; or `out`
            holds runs of another benchmark, other settings or other code.
    """
    checks.check_counts(protocol, chosen, seeds)
    specs = dict.fromkeys(when.canonical(text) for text in chosen)
    jobs = tuple(
        Job(spec.name, protocol, spec.shown(protocol), Path(out), method, seed, device, command)
        for method in specs
        for seed in dict.fromkeys(seeds)
    )
    checks.check_folders(jobs)
    for job in jobs:
        if job.directory.done:
            job.directory.records()  # damage is refused here, before anything is trained beside it
    by_seed = {job.seed: shared for job in jobs if not job.directory.done and (shared := job.shared())}
    for measures in (protocol.metrics, protocol.boundary_metrics, protocol.start_metrics):
        metrics.by_name(measures)
    with memory_in_words(protocol.trainer, "cpu"):
        checks.check_fit(protocol, specs, seeds[0], device)
    planned = Plan(jobs, tuple(job for job in by_seed.values() if not job.ready))
    checks.check_content(jobs[0])
    for job in (*jobs, *by_seed.values()):
        checks.compare(str(job.directory.path), job.known(), job.settings())
    return replace(planned, accepted=tuple(checks.other_code(jobs, by_seed.values(), accept_changes)))


Crew = Callable[[Mapping[str, Job], Listener], dict[str, str]]
"""Carries out jobs, given by name, and tells the listener. Returns the problems by name of the job."""


def run(
    planned: Plan,
    *,
    workers: int,
    plugins: Sequence[str] = (),
    listener: Listener | None = None,
    crew: Crew | None = None,
) -> dict[str, str]:
    """Carry out the runs that are not done yet.

    They run beside each other. Under torchrun they run one after another, each shared by all processes.

    Args:
        planned: The runs. On the device ``cuda`` the runs share all GPUs of this machine evenly.
        workers: Most runs at a time.
        plugins: Plug-in files that each process loads first.
        listener: Is told how far the jobs are.
        crew: Does the work in place of processes of this machine, such as a cluster.

    Returns:
        The problems, by name of the job. The other runs are finished.
    """
    listener = listener or Listener()
    todo, folder = planned.todo, planned.jobs[0].folder
    distributed.barrier()  # Before any process writes, all have seen what there is to do.

    def carry_out(jobs: Iterable[Job]) -> dict[str, str]:
        named = {job.name: job for job in jobs}
        if crew is not None:
            return crew(named, listener)
        if distributed.world_size() > 1:
            return _together(named, listener)
        gpus = gpu_names() if planned.jobs[0].device == "cuda" else ()
        work_on = partial(work, workers=workers, plugins=plugins, gpus=gpus)
        done = stacked.carry_out(planned.stacking, named, listener, work_on)
        left = {name: job for name, job in named.items() if name not in done}
        return work_on(left, execute, progress=listener.progress, ended=listener.ended)

    with alone(folder) if distributed.rank() == 0 else nullcontext():
        if distributed.rank() == 0:
            _tidy(planned)
        if planned.probe is not None:
            write_text(folder / "speed.json", json.dumps(planned.probe, indent=2) + "\n")
        if planned.stacking.asked:
            write_text(folder / "stacked.json", json.dumps(planned.stacking.record(), indent=2) + "\n")
        try:
            failures = carry_out(planned.shared)
            lost = {job.seed for job in planned.shared if job.name in failures}
            return failures | carry_out(job for job in todo if job.seed not in lost)
        finally:
            clear_below(folder)  # of workers that had to be killed
            clear_scratch()


def _together(jobs: Mapping[str, Job], listener: Listener) -> dict[str, str]:
    """Do one job after another; every process does its part of each. All of them have loaded the plug-ins."""
    failures: dict[str, str] = {}
    for name, job in jobs.items():
        try:
            execute(job, partial(listener.progress, name))
        except DivergedError as error:  # The same in every process; any other error ends them all.
            failures[name] = str(error)
        listener.ended(name, failures.get(name, ""))
    return failures


def _tidy(planned: Plan) -> None:
    """Remove what killed processes left, and note the changes of code that were accepted."""
    clear_below(planned.jobs[0].folder)
    clear_scratch()
    for job in planned.jobs:
        if job.directory.done:
            resume.forget(job.directory)
    for file in planned.accepted:
        code.accept(file)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder, so that no second process writes the same runs.

    The file `.lock` may stay in the folder. It holds nothing back: the operating system lets go of it when the process
    ends, even one that is killed.

    Raises:
        UserError: Another process holds the folder, or it cannot be written.
    """
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise UserError(f"another process is running an experiment in {folder}; wait for it or give --out") from None
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()
