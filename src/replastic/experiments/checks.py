"""Checks before an experiment begins: that it can be waited for, and fits its data and what its folder holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from replastic import recipes
from replastic.errors import UserError
from replastic.experiments import code, when
from replastic.experiments.runs import SHARED, Job, check_device
from replastic.records import RUN, RunDirectory, find_runs, read_object
from replastic.report.experiment import differences
from replastic.training import Protocol, diagnostics
from replastic.training.session import Session

MOST_RUNS = 10_000
"""Of one experiment."""
MOST_PHASES = 10_000
"""Of one run."""


def check_counts(protocol: Protocol, chosen: Sequence[str], seeds: Sequence[int]) -> None:
    """Refuse what would take all memory or all time before anything of it is made."""
    if not seeds:
        raise UserError("an experiment needs at least one seed")
    runs = len(chosen) * len(seeds)
    if runs > MOST_RUNS:
        raise UserError(
            f"{len(chosen)} methods with {len(seeds)} seeds are {runs:,} runs, and one experiment takes at most "
            f"{MOST_RUNS:,}: take fewer seeds or methods"
        )
    if protocol.task.phases > MOST_PHASES:
        raise UserError(f"a run takes at most {MOST_PHASES:,} phases, and these settings make {protocol.task.phases:,}")


def check_folders(jobs: Sequence[Job]) -> None:
    """Refuse two methods whose specs make one name of a folder."""
    first: dict[Path, Job] = {}
    for job in jobs:
        other = first.setdefault(job.directory.path, job)
        if other.method != job.method:
            raise UserError(f"{other.method} and {job.method} would share the folder {job.directory.path.parent}")


def other_code(jobs: Sequence[Job], shared: Iterable[Job], accept: bool) -> Iterator[Path]:
    """Files of the runs in the folder that were begun with other code, if that is accepted; else it is refused."""
    folder = jobs[0].folder
    todo = {job.directory.path for job in jobs if not job.directory.done}
    for file in sorted(folder.rglob(RUN)) if folder.is_dir() else ():
        known = RunDirectory(file.parent).info().environment
        if code.check(file, known, unfinished=file.parent in todo, accept=accept):
            yield file
    for job in shared:
        file = job.directory.path / SHARED
        content = read_object(file) if file.is_file() else {}
        noted = content.get(code.noted(content))
        if isinstance(noted, dict) and code.check(file, noted, unfinished=not job.ready, accept=accept):
            yield file


def check_fit(protocol: Protocol, specs: Iterable[str], seed: int, device: str) -> None:
    """Make what every run makes at its beginning, so that settings that cannot work are refused before any starts."""
    recipes.load(protocol.recipe)
    check_device(device)
    source = protocol.task.open()
    for spec in specs:
        trained = when.protocol_of(protocol, spec)
        with Session(trained, source, when.method_of(spec), seed) as session:
            for index in (0, protocol.task.phases - 1):
                session.learner.extent(index)
            session.begin(protocol.methods_from)
            diagnostics.watch(session)


def check_content(job: Job) -> None:
    """See that the runs in the folder are of this benchmark, settings and data, whatever their method."""
    if not job.folder.is_dir() or not any(job.folder.rglob(RUN)):
        return
    task = job.protocol.task
    samples = task.facts(task.open())
    wanted = {**job.settings(), "samples": samples}
    for directory in find_runs(job.folder):
        info = directory.info()
        noted = info.environment.get("samples")
        there = {**samples, **(noted if isinstance(noted, dict) else {})}  # a run of an older version may know less
        known = {"benchmark": info.benchmark, **info.config, "method": wanted["method"], "samples": there}
        compare(str(directory.path), known, wanted)


def compare(where: str, known: dict[str, object] | None, wanted: dict[str, object]) -> None:
    """Refuse a run at `where` whose settings differ from those that are wanted now; None stands for a new run."""
    found = differences(known, wanted) if known is not None else []
    if found:
        raise UserError(
            f"{where} was begun with other settings (there and now): {'; '.join(found)}. "
            "Give the same settings to go on with it, or another --out"
        )
