"""Plans of a small experiment, and runs of it that have finished."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from replastic import benchmarks, experiments
from replastic.experiments.experiment import Plan
from replastic.experiments.runs import Job


def planned(
    folder: Path, chosen: Sequence[str] = ("base", "fire"), seeds: Sequence[int] = (0, 1), **changes: Any
) -> Plan:
    """A plan of the warm start on digits at its smallest; `changes` are fields of its protocol or of its task."""
    spec = benchmarks.get("digits_warm_start")()
    protocol = spec.presets["smoke"].protocol
    own = {f.name for f in fields(protocol)}
    task = replace(protocol.task, **{name: value for name, value in changes.items() if name not in own})
    protocol = replace(protocol, task=task, **{name: value for name, value in changes.items() if name in own})
    return experiments.plan(spec, protocol, chosen, seeds, folder)


def finish(job: Job, records: Sequence[tuple[int, int, float]]) -> None:
    """A finished run, by (phase, step, seconds) of its records."""
    job.directory.create(job.info())
    for phase, step, seconds in records:
        job.directory.append({"phase": phase, "step": step, "event": "phase_end", "seconds": seconds})
    job.directory.finish()
