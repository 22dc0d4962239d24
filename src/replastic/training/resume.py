"""Stop at any moment and go on to the same numbers: what is saved, when it counts, how it is read back.

The state is one safetensors file, replaced by a rename, so that it is whole or absent: tensors named ``model/<name>``,
``optimizer/<optimizer>/<parameter>/<key>``, ``method/<name>``, ``learner/<name>`` and ``trigger/<name>``, and the rest
as JSON in its metadata. It says how many records it goes on from, with their hash. A checksum covers all of it.
Generators are not in it: every draw of a run has a seed that follows from the run's and from what it is for.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.optim import Optimizer

from replastic.disk import make_folder
from replastic.errors import UserError, is_out_of_memory
from replastic.parallel import distributed
from replastic.records import STATE, Record, RunDirectory, Seal
from replastic.training import state_file
from replastic.training.session import Position, Session
from replastic.weights.naming import RUN_STATE
from replastic.weights.shards import cut_like, gathered, is_sharded

NAME = "state.safetensors"
_WORTH = 20
"""Within a phase, train at least so many times as long as the last saving took before saving again."""


class Log:
    """Writes the records of a run and remembers how many and how long."""

    def __init__(self, directory: RunDirectory, count: int = 0, seconds: float = 0.0, share: float = 1.0) -> None:
        self.directory = directory
        self.count = count
        self._share = share
        self._began = share * time.process_time() - seconds
        self._saved, self._cost = time.perf_counter(), 0.0

    @property
    def seconds(self) -> float:
        """Processor time of this process since the run began, over all its resumptions, in seconds.

        Unlike the time on the clock it does not grow when others use the machine; training on a GPU keeps one thread
        busy and so counts as well. Where runs share a process, each has its share of it.
        """
        return self._share * time.process_time() - self._began

    def add(self, event: str, session: Session, measures: Mapping[str, Any]) -> None:
        """Append one record."""
        where = {"phase": session.position.phase, "step": session.position.step, **session.learner.position()}
        record = {**where, "event": event, "seconds": round(self.seconds, 3)}
        if distributed.rank() == 0:
            self.directory.append({**record, **measures})
        self.count += 1

    def due(self, after: float) -> bool:
        """Whether `after` seconds have passed since the state was saved, and enough that saving stays a small cost."""
        return time.perf_counter() - self._saved >= max(after, _WORTH * self._cost)

    def saved(self, cost: float) -> None:
        """Note that the state was saved now, and how many seconds that took."""
        self._saved, self._cost = time.perf_counter(), cost


def save(session: Session, log: Log) -> None:
    """Keep what going on from here needs; records added after this are written anew by a resumed run.

    Raises:
        UserError: The disk is full or the folder cannot be written.
    """
    if distributed.rank() != 0 and not _shares_weights(session):
        return
    began = time.perf_counter()
    tensors, scalars = _optimizer_state(session)
    tensors |= {f"{RUN_STATE}{name}": value for name, value in session.model.state_dict().items()}
    tensors |= {f"method/{name}": value for name, value in session.attached.state_dict().items()}
    tensors |= {f"learner/{name}": value for name, value in session.learner.state_dict().items()}
    if session.trigger is not None:
        tensors |= {f"trigger/{name}": value for name, value in session.trigger.state_dict().items()}
    tensors = {name: gathered(value) for name, value in tensors.items()}
    if distributed.rank() != 0:
        return
    facts = {
        "position": asdict(session.position),
        "records": asdict(log.directory.seal(log.count)),
        "seconds": log.seconds,
        "optimizer": scalars,
    }
    state_file.write(_file(log.directory), tensors, facts)
    log.saved(time.perf_counter() - began)


def _shares_weights(session: Session) -> bool:
    """Whether this process holds a part of the weights, so that all processes gather what one of them saves."""
    return any(is_sharded(parameter) for parameter in session.model.parameters())


def _file(directory: RunDirectory) -> Path:
    return directory.path / STATE / NAME


def is_saved(directory: RunDirectory) -> bool:
    """Whether there is a state to go on from."""
    return _file(directory).is_file()


def restore(session: Session, directory: RunDirectory, start: RunDirectory | None, share: float = 1.0) -> Log:
    """Bring a new session to where `directory` was saved last, else to where `start` stopped, else leave it new.

    The run has that share of this process's time from now on.

    Raises:
        UserError: The state is damaged or belongs to another network.
    """
    make_folder(directory.path)
    source = directory if is_saved(directory) else start
    if source is None:
        _records(directory)
        return Log(directory, share=share)
    file = _file(source)
    try:
        tensors, facts = state_file.read(file)
        _load(session, facts, tensors)
        seal, seconds = Seal(**facts["records"]), float(facts["seconds"])
    except UserError:
        raise
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise  # the state is as good as before
        raise UserError(f"cannot resume from {file}: {error}; delete {source.path} to train it anew") from error
    known = source.records()
    if len(known) < seal.records or source.seal(seal.records) != seal:
        lost = "fewer records than" if len(known) < seal.records else "other records than those that"
        raise UserError(f"{source.path} has {lost} its saved state goes on from; delete {source.path} to train it anew")
    if not _is_reached(session, known[: seal.records]):
        raise UserError(f"{file} says that the run stands where it cannot be; delete {source.path} to train it anew")
    if source is directory:
        _records(directory, seal.records)
    else:
        _records(directory, 0, known[: seal.records])
    return Log(directory, seal.records, seconds, share)


def _is_reached(session: Session, records: Sequence[Record]) -> bool:
    """Whether a run with these records can stand at the session's position."""
    position, phases = session.position, session.protocol.task.phases
    updates = session.learner.extent(min(position.phase, phases - 1)).updates
    since = position.step - (records[-1]["step"] if records else 0)
    return 0 <= position.phase <= phases and 0 <= position.step_in_phase <= updates and 0 <= since <= updates


def _records(directory: RunDirectory, keep: int = 0, add: Sequence[Record] = ()) -> None:
    """Bring the records to where the run stands; of several processes one does, when all have read the state."""
    distributed.barrier()
    if distributed.rank() == 0:
        directory.keep_records(keep)
        if add:
            directory.append(*add)


def where_saved(directory: RunDirectory) -> str:
    """The end of a sentence: which file holds the state saved last, and of which update; empty if there is none."""
    file = _file(directory)
    step = state_file.updates(file)
    return "" if step is None else f", and the last good state, after {step} updates, in {file}"


def forget(directory: RunDirectory) -> None:
    """Remove what resuming needed, once the run has finished."""
    shutil.rmtree(directory.path / STATE, ignore_errors=True)


def _load(session: Session, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    position = Position(**facts["position"])
    session.inform(min(position.phase, session.protocol.task.phases - 1))
    session.attached.load_state_dict(_under("method/", tensors))
    session.position = position
    present, saved = session.model.state_dict(), _under(RUN_STATE, tensors)
    session.model.load_state_dict({n: cut_like(v, present[n]) if n in present else v for n, v in saved.items()})
    session.learner.load_state_dict(_under("learner/", tensors))
    watched = _under("trigger/", tensors)
    if session.trigger is not None and watched:  # a phase that all methods share has none
        session.trigger.load_state_dict(watched)
    states: dict[str, dict[str, Any]] = {}
    for name, value in {**_under("optimizer/", tensors), **facts["optimizer"]}.items():
        place, key = name.rsplit("/", 1)
        states.setdefault(place, {})[key] = value
    for place, optimizer, parameter in _trained(session):
        if place in states:
            optimizer.state[parameter] = {
                key: _like(parameter, value) if isinstance(value, Tensor) else value
                for key, value in states[place].items()
            }


def _trained(session: Session) -> Iterator[tuple[str, Optimizer, Tensor]]:
    """Each parameter of each optimizer, with a name for its place."""
    for name, optimizer in session.attached.optimizers.items():
        for index, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"]):
            yield f"{name}/{index}", optimizer, parameter


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    """State on the parameter's device and in its memory layout: fused optimizers walk both in the order of memory."""
    if value.shape != parameter.shape:
        return value.to(parameter.device)
    if is_sharded(parameter):
        return cut_like(value, parameter)
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _optimizer_state(session: Session) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State of the optimizers by ``<optimizer>/<parameter>/<key>``: tensors (named as in the file), and the rest."""
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, Any] = {}
    for place, optimizer, parameter in _trained(session):
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{place}/{key}"] = value
            else:
                scalars[f"{place}/{key}"] = value
    return tensors, scalars


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
