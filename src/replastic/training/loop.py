"""The phase loop: train, cross the boundary, train on; the same for every benchmark and every method."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from replastic.denormals import flushed
from replastic.disk import check_disk
from replastic.errors import UserError
from replastic.learners import Extent
from replastic.methods import Method
from replastic.parallel import distributed
from replastic.records import Event, RunDirectory, key
from replastic.seeds import derive, drawing_from
from replastic.training import boundary, checkpoints, diagnostics, resume
from replastic.training.failures import DivergedError, memory_in_words
from replastic.training.protocol import Protocol
from replastic.training.session import Session
from replastic.triggers import Trigger
from replastic.weights.shards import is_sharded, local

Progress = Callable[[float], None]
"""Called with the phases completed so far, a part of one counting as that part."""
LOOK_EVERY = 500
"""Updates between two looks at whether the loss is still finite: each look waits for the device."""


def train(
    protocol: Protocol,
    source: Any,
    method: Method,
    seed: int,
    directory: RunDirectory,
    *,
    device: str = "cpu",
    until: int | None = None,
    start: RunDirectory | None = None,
    progress: Progress = lambda phases: None,
    film: Path | None = None,
) -> None:
    """Train one method with one seed, or go on where `directory` says a killed run stood.

    Numbers depend on the protocol, the method and the seed alone: batches, labels and draws have seeds of their own, so
    that measures, the moment of a kill or the other runs change nothing.

    Args:
        protocol: What is trained and how.
        source: What the protocol's task opened for `device`: data or environments.
        method: The method; set up when its first phase comes.
        seed: Seed of the run.
        directory: Where records and state go; its run.json is the caller's business.
        device: Where to train.
        until: Stop before this phase, keeping the state; None runs all and removes it.
        start: A run stopped by `until` to begin from, used when `directory` holds no state yet.
        progress: Told how far the run is.
        film: File for a film of what the learner does when the run has finished; None makes none.

    Raises:
        DivergedError: The loss or the weights are not finite.
        LostProcessError: Another process of a data parallel run has gone.
        UserError: The settings do not fit the data or the method, the saved state is damaged, or memory ran out.
    """
    run = course(
        protocol,
        source,
        method,
        seed,
        directory,
        device=device,
        until=until,
        start=start,
        progress=progress,
        film=film,
    )
    with memory_in_words(protocol.trainer, device), closing(run):
        for segment in run:
            segment.train()


def course(
    protocol: Protocol,
    source: Any,
    method: Method,
    seed: int,
    directory: RunDirectory,
    *,
    device: str = "cpu",
    until: int | None = None,
    start: RunDirectory | None = None,
    progress: Progress = lambda phases: None,
    share: float = 1.0,
    film: Path | None = None,
) -> Generator[Segment]:
    """A run as `train` makes it, but for the updates: it hands out its segments one by one, to be trained by others.

    Args:
        protocol: As for `train`, and so are the others.
        source: Data.
        method: The method.
        seed: Seed.
        directory: Folder.
        device: Where to train.
        until: Stop before this phase.
        start: A run to begin from.
        progress: Told how far the run is.
        share: The part of this process's time that is the run's own.
        film: File for a film.

    Yields:
        The updates up to the next moment at which it evaluates, records or saves; to be made before it goes on.
    """
    phases = protocol.task.phases if until is None else until
    with Session(protocol, source, method, seed, device) as session:
        session.kept = partial(checkpoints.of_phase, protocol.task, directory, start)
        diagnostics.watch(session)
        _check_room(session, directory)
        log = resume.restore(session, directory, start, share)
        for index in range(session.position.phase, phases):
            progress(index)
            yield from _phase(session, index, log, progress)
        progress(phases)
        if distributed.rank() == 0:
            if film is not None:
                session.learner.record(film)
            directory.finish()
            if until is None:
                resume.forget(directory)
        distributed.barrier()


def _check_room(session: Session, directory: RunDirectory) -> None:
    """See that the disk has room for the saved state of a learner that keeps much, before anything is trained.

    Raises:
        UserError: It has less.
    """
    needed = session.learner.saved_bytes()
    if needed:
        remedy = "give --out on another disk, or make the replay smaller with --buffer-size"
        check_disk(directory.path, needed, "the saved state of a run, with its replay,", remedy)


@dataclass
class Segment:
    """Updates of one run without a pause: numbers `first` to `last`, from 0 and without `last`, of a phase."""

    session: Session
    phase: int
    first: int
    last: int
    extent: Extent
    """Of the phase."""
    losses: list[Tensor] = field(default_factory=list)
    """The loss before each update that was made; scalars, detached."""
    refused: UserError | None = None
    """The reason why what a method proposed could not be written; the updates ended there."""
    after: Callable[[Tensor], None] | None = None
    """Called with the loss after every update, where a trigger decides when the method acts."""

    @property
    def schedule(self) -> int:
        """Updates over which the step size is scheduled."""
        return self.extent.schedule or self.extent.updates

    @property
    def weight_decay(self) -> float:
        """Weight decay of the phase."""
        own = self.extent.weight_decay
        return self.session.protocol.trainer.weight_decay if own is None else own

    def train(self) -> None:
        """Make the updates one after the other."""
        session = self.session
        session.descent.weight_decay = self.weight_decay
        # Processes that share a batch draw for different samples, so each has a seed of its own.
        seed = derive(session.seed, "training", self.phase, self.first, distributed.rank())
        with drawing_from(seed, session.model), flushed():
            session.model.train()
            for step in range(self.first, self.last):
                try:
                    self.losses.append(session.update(step, self.schedule))
                    if self.after is not None:
                        self.after(self.losses[-1])
                except UserError as error:
                    if not self.has_diverged():
                        raise
                    self.refused = error
                    break
                if len(self.losses) % LOOK_EVERY == 0 and not self.losses[-1].isfinite():
                    break

    @torch.no_grad()
    def has_diverged(self) -> bool:
        """Whether what a method proposed could not be written because training broke, rather than the method."""
        session = self.session
        if not _weights_are_finite(session):
            return True
        batch = session.learner.probe(self.phase, session.protocol.trainer.batch_size)
        return not bool(session.learner.loss(session.model, batch).isfinite())


def _phase(session: Session, phase: int, log: resume.Log, progress: Progress) -> Iterator[Segment]:
    """Cross the boundary, train to the end of the phase, evaluate on the way, record and save."""
    position, learner = session.position, session.learner
    begins = not position.crossed and not position.step_in_phase
    if session.trigger is not None:
        session.begin(phase)
        if phase and not position.crossed and learner.extent(phase).announced:
            _act(session, phase, session.trigger.signal() if _watched(session, phase) else "", log)
        position.crossed = True
    elif phase and not position.crossed:
        before, after = boundary.cross(session, phase)
        log.add(Event.BEFORE_BOUNDARY, session, before)
        log.add(Event.BOUNDARY, session, after)
        position.crossed = True
    else:
        session.begin(phase)
    if begins:
        _measure_start(session, phase, log)
    extent = learner.extent(phase)
    learner.begin(phase, position.step_in_phase)
    decide: Callable[[Tensor], None] | None = None
    if session.trigger is not None and _watched(session, phase):
        decide = partial(_decide, session, phase, log, session.trigger)
    for mark in extent.marks:
        if mark <= position.step_in_phase:
            continue
        began = position.step
        segment = Segment(session, phase, position.step_in_phase, mark, extent, after=decide)
        yield segment
        measures = {key("train_loss"): _mean_loss(segment, began, log)}
        measures |= learner.evaluate(phase, last=mark == extent.updates)
        ends = mark == extent.updates
        if ends:
            measures |= learner.examine(phase)
            measures |= diagnostics.measure(session, phase, session.protocol.metrics)
        log.add(Event.PHASE_END if ends else Event.EVALUATION, session, measures)
        if session.protocol.trainer.checkpoints and (ends or phase + 1 < session.protocol.task.phases):
            checkpoints.keep(log.directory, session)
        if not ends:
            if distributed.first_says(log.due(session.protocol.trainer.save_seconds)):
                resume.save(session, log)
            progress(phase + mark / extent.updates)
    position.phase, position.step_in_phase, position.crossed = phase + 1, 0, False
    resume.save(session, log)


def _measure_start(session: Session, phase: int, log: resume.Log) -> None:
    """Record what is measured before the first update of a phase, where the protocol asks for any of it."""
    asked = session.protocol
    if asked.start_metrics and phase % asked.start_every == 0:
        found = diagnostics.measure(session, phase, asked.start_metrics, samples=asked.start_samples)
        log.add(Event.PHASE_START, session, found)


def _mean_loss(segment: Segment, began: int, log: resume.Log) -> float:
    """The mean loss over the updates of a segment, which began after so many of the run.

    Raises:
        DivergedError: The loss was not finite at one of them, or the weights are not after them.
    """
    session = segment.session
    losses = torch.stack(segment.losses) if segment.losses else torch.empty(0)
    finite = losses.isfinite()
    if segment.refused is None and finite.all() and _weights_are_finite(session):
        return float(losses.mean())
    bad = torch.nonzero(~finite).flatten().tolist()
    where = bad[0] if bad else session.position.step - began - 1
    what = f"the loss became {float(losses[where])}" if bad else "the weights became NaN or infinite"
    raise DivergedError(
        f"{what} at update {began + where} (phase {segment.phase}, update {segment.first + where} of "
        f"{segment.extent.updates}); a smaller --learning-rate may help. Earlier records are kept"
        f"{resume.where_saved(log.directory)}"
    ) from segment.refused


def _watched(session: Session, phase: int) -> bool:
    """Whether methods are on, and so the trigger."""
    return phase >= session.protocol.methods_from


def _decide(session: Session, phase: int, log: resume.Log, trigger: Trigger, loss: Tensor) -> None:
    """Ask the trigger after an update whether it is time to act."""
    _act(session, phase, trigger.update(loss), log)


def _act(session: Session, phase: int, reason: str, log: resume.Log) -> None:
    """Let the method act and record it, if the trigger found a reason."""
    if reason:
        why = {"trigger": session.protocol.trigger, "reason": reason}
        before, after = boundary.act(session, phase)
        log.add(Event.BEFORE_ACTING, session, why | before)
        log.add(Event.ACTED, session, why | after)


def _weights_are_finite(session: Session) -> bool:
    tensors = [value for value in session.model.state_dict().values() if value.is_floating_point()]
    norm = nn.utils.get_total_norm([local(value) for value in tensors])
    return bool((distributed.total(norm) if any(map(is_sharded, tensors)) else norm).isfinite())
