"""One run of an experiment: what it is, where it lies, and how a worker carries it out."""

from __future__ import annotations

import json
import re
import traceback
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from replastic.disk import make_folder, write_text
from replastic.environment import environment
from replastic.errors import PluginError, UserError
from replastic.experiments import code, when
from replastic.parallel import distributed
from replastic.records import RunDirectory, RunInfo, read_object
from replastic.registry import plugins_named
from replastic.training import Protocol, resume, train

LONGEST = 150
"""Bytes of a folder's name; file systems take 255."""
LOG = "error.log"
"""The traceback of a plug-in that failed, in the folder of the run; gone when the run has finished."""
SHARED = "shared.json"
"""Settings of a folder that holds the phases all methods share; it is no run, so it has no run.json."""


@dataclass(frozen=True)
class Job:
    """One method with one seed, or the phases of one seed that all methods share; pickled on its way to a worker."""

    benchmark: str
    protocol: Protocol
    summary: Mapping[str, Any]
    folder: Path
    """Of the experiment."""
    method: str
    """Its spec, with a trigger if it has one of its own (see `when`); without effect on the shared phases."""
    seed: int
    device: str = "cpu"
    command: str = ""
    until: int | None = None
    """Train only the phases before this one, which all methods share."""
    film: str = ""
    """Name of a film of what the learner does when the run has finished, in the run's folder; empty for none."""

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.method}, seed {self.seed}" if self.until is None else f"shared first phase, seed {self.seed}"

    @property
    def phases(self) -> int:
        """Number of phases it trains, those it begins from included."""
        return self.protocol.task.phases if self.until is None else self.until

    @property
    def directory(self) -> RunDirectory:
        """Where its records and its state lie."""
        part = folder_name(self.method) if self.until is None else ".shared"
        return RunDirectory(self.folder / part / f"seed-{self.seed}")

    @property
    def ready(self) -> bool:
        """Whether it has finished and left what others need of it."""
        return self.directory.done and (self.until is None or resume.is_saved(self.directory))

    def shared(self) -> Job | None:
        """The job that trains what this one begins from, if its method is off at first."""
        if self.until is not None or not self.protocol.methods_from:
            return None
        return replace(self, method="base", until=self.protocol.methods_from, film="")

    def info(self) -> RunInfo:
        """The contents of its run.json, but for the environment."""
        config = {**self.protocol.config(), "device": torch.device(self.device).type}
        if self.until is None:
            config["method"] = when.settings(self.method)
        return RunInfo(self.benchmark, self.method, self.seed, config, self.summary, self.command)

    def known(self) -> dict[str, Any] | None:
        """Benchmark and settings this job was begun with, or None if it is new."""
        if self.until is None:
            info = self.directory.info() if self.directory.exists else None
            return None if info is None else {"benchmark": info.benchmark, **info.config}
        file = self.directory.path / SHARED
        if not file.is_file():
            return None
        content = read_object(file)
        return {name: value for name, value in content.items() if name != code.noted(content)}

    def settings(self) -> dict[str, Any]:
        """Benchmark and settings of this job, as `known` would give them."""
        info = self.info()
        return dict(json.loads(json.dumps({"benchmark": info.benchmark, **info.config})))


def folder_name(spec: str) -> str:
    """A method's spec as a folder name that every file system takes."""
    name = re.sub(r"[^\w.=+]+", "-", spec).strip("-")
    stored = name.encode()
    if len(stored) <= LONGEST:
        return name
    return f"{stored[:LONGEST].decode(errors='ignore')}-{zlib.crc32(spec.encode()):08x}"


def check_device(device: str) -> None:
    """See that tensors can be made there.

    Raises:
        UserError: They cannot.
    """
    try:
        torch.empty(0, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {device!r} cannot be used here: {reason}") from error


def execute(job: Job, report: Callable[[float], None]) -> None:
    """Train one job to its end, from wherever a killed process left it. Body of a worker.

    Raises:
        PluginError: Code of a plug-in failed; its traceback is in `LOG` in the folder of the run.
        ReplasticError: Anything else that ends a run; see `train`.
    """
    log = job.directory.path / LOG
    try:
        with plugins_named():
            _execute(job, report)
    except PluginError as error:
        if distributed.rank() == 0 and job.directory.path.is_dir():
            write_text(log, "".join(traceback.format_exception(error)))
            raise PluginError(f"{error} (all of it in {log})") from error
        raise
    if distributed.rank() == 0:
        log.unlink(missing_ok=True)


def _execute(job: Job, report: Callable[[float], None]) -> None:
    """Write run.json if the job is new, then train."""
    shared, source = job.shared(), job.protocol.task.open(job.device)
    prepare(job, source)
    train(
        when.protocol_of(job.protocol, job.method),
        source,
        when.method_of(job.method),
        job.seed,
        job.directory,
        device=job.device,
        until=job.until,
        start=shared.directory if shared else None,
        progress=report,
        film=job.directory.path / job.film if job.film and job.until is None else None,
    )


def prepare(job: Job, source: Any, **around: Any) -> None:
    """Make the folder of a job that is new, with its settings.

    Args:
        job: The job.
        source: Data, as the task opened them.
        around: What else to note of how the run was begun.
    """
    if job.known() is not None or distributed.rank() != 0:
        return
    task, directory = job.protocol.task, job.directory
    if job.until is None:
        known = {
            **environment(),
            "device": job.device,
            "processes": distributed.world_size(),
            "samples": task.facts(source),
            "shortfall": task.shortfall(source),
        }
        directory.create(replace(job.info(), environment={**known, **around}))
    else:
        make_folder(directory.path)
        content = {**job.settings(), code.MADE_WITH: environment()}
        write_text(directory.path / SHARED, json.dumps(content, indent=2) + "\n")
