"""Checkpoints on the way: the weights at the evaluations of a phase, and which of them had the best score."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from replastic.disk import make_folder, not_written, replacing
from replastic.errors import UserError
from replastic.learners import Task
from replastic.methods import Checkpoint
from replastic.parallel import distributed
from replastic.records import CHECKPOINTS, Event, RunDirectory
from replastic.training.session import Session
from replastic.weights.shards import gathered

_NAME: Final = re.compile(r"phase-(\d+)-step-(\d+)\.safetensors")


def keep(directory: RunDirectory, session: Session) -> None:
    """Write the network as it is now, whole or not at all; one process does it, and the others wait.

    Raises:
        UserError: The disk is full or the folder cannot be written.
    """
    state: dict[int, tuple[str, Tensor]] = {}
    for name, value in session.model.state_dict(keep_vars=True).items():
        if id(value) not in state:
            state[id(value)] = name, gathered(value).contiguous().cpu()
    if distributed.rank() == 0:
        folder, position = directory.path / CHECKPOINTS, session.position
        make_folder(folder)
        file = folder / f"phase-{position.phase}-step-{position.step}.safetensors"
        try:
            with replacing(file) as draft:
                save_file(dict(state.values()), draft)
        except OSError as error:
            raise not_written(file, error) from error
    distributed.barrier()


def of_phase(task: Task, directory: RunDirectory, start: RunDirectory | None, phase: int) -> tuple[Checkpoint, ...]:
    """The checkpoints of a phase in their order; the one with the best score says so.

    Args:
        task: Says which score counts.
        directory: The run. Its records have the scores.
        start: The run that it began from, which kept those of the first phases.
        phase: Number of the phase.
    """
    files = found(directory, phase) or (found(start, phase) if start else {})
    if not files:
        return ()
    score = task.judged_by(phase)
    scored = {
        record["step"]: record[score.key]
        for record in directory.records()
        if record["event"] in (Event.EVALUATION, Event.PHASE_END)
        and record["phase"] == phase
        and record["step"] in files
        and isinstance(record.get(score.key), float)
    }
    choose = max if score.higher_is_better else min
    best = choose(scored, key=scored.__getitem__) if scored else None
    return tuple(Checkpoint(step, partial(read, file), step == best) for step, file in files.items())


def found(directory: RunDirectory, phase: int) -> dict[int, Path]:
    """The files of a phase's checkpoints by the number of updates, in their order."""
    marks = {file: _NAME.fullmatch(file.name) for file in (directory.path / CHECKPOINTS).glob("*.safetensors")}
    return dict(sorted((int(mark[2]), file) for file, mark in marks.items() if mark and int(mark[1]) == phase))


def read(file: Path) -> Mapping[str, Tensor]:
    """The tensors of a checkpoint by name, each tied one once.

    Raises:
        UserError: It cannot be read.
    """
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read the checkpoint {file}: {error}") from error
