"""The phase loop: train, cross the boundary, train on; the same for every benchmark and every method."""

from __future__ import annotations

from collections.abc import Callable

import torch

from replastic.data import Splits
from replastic.errors import ReplasticError
from replastic.methods import Method
from replastic.records import RunDirectory
from replastic.seeds import derive
from replastic.streams import Phase
from replastic.training import boundary, diagnostics, evaluate, resume, supervised
from replastic.training.protocol import Protocol
from replastic.training.session import Session
from replastic.training.update import update, warm_up

Progress = Callable[[float], None]
"""Called with the phases completed so far, a part of one counting as that part."""


class DivergedError(ReplasticError):
    """The loss became NaN or infinite; the message says where. What was recorded and saved before it is kept."""


def train(
    protocol: Protocol,
    splits: Splits,
    method: Method,
    seed: int,
    directory: RunDirectory,
    *,
    device: str = "cpu",
    until: int | None = None,
    start: RunDirectory | None = None,
    progress: Progress = lambda phases: None,
) -> None:
    """Train one method with one seed, or go on where `directory` says a killed run stood.

    Numbers depend on the protocol, the method and the seed alone: batches, labels and draws have seeds of their own, so
    that measures, the moment of a kill or the other runs change nothing.

    Args:
        protocol: What is trained and how.
        splits: The protocol's data, on `device`.
        method: The method; set up when its first phase comes.
        seed: Seed of the run.
        directory: Where records and state go; its run.json is the caller's business.
        device: Where to train.
        until: Stop before this phase, keeping the state; None runs all and removes it.
        start: A run stopped by `until` to begin from, used when `directory` holds no state yet.
        progress: Told how far the run is.

    Raises:
        DivergedError: The loss is not finite.
        UserError: The settings do not fit the data or the method, or the saved state is damaged.
    """
    phases = len(protocol.stream) if until is None else until
    with Session(protocol, splits, method, seed, device) as session:
        log = resume.restore(session, directory, start)
        for index in range(session.position.phase, phases):
            progress(index)
            _phase(session, session.phase(index), log, progress)
        progress(phases)
        directory.finish()
        if until is None:
            resume.forget(directory)


def _phase(session: Session, phase: Phase, log: resume.Log, progress: Progress) -> None:
    """Cross the boundary, train to the end of the phase, evaluate on the way, record and save."""
    position, trainer = session.position, session.protocol.trainer
    if phase.index and not position.crossed:
        before, after = boundary.cross(session, phase)
        log.add("before_boundary", position, before)
        log.add("boundary", position, after)
        position.crossed = True
    else:
        boundary.begin(session, phase)
    steps, marks = trainer.schedule(phase)
    for mark in marks:
        if mark <= position.step_in_phase:
            continue
        measures = {"metric/train_loss": _segment(session, phase, mark, steps)}
        measures |= evaluate.scores(session.forward, phase)
        if mark < steps:
            log.add("evaluation", position, measures)
            if log.due(trainer.save_seconds):
                resume.save(session, log)
            progress(phase.index + mark / steps)
        else:
            measures |= evaluate.train_score(session.forward, phase)
            log.add("phase_end", position, measures | diagnostics.measure(session, phase, session.protocol.metrics))
    position.phase, position.step_in_phase, position.crossed = phase.index + 1, 0, False
    resume.save(session, log)


def _segment(session: Session, phase: Phase, last: int, steps: int) -> float:
    """Train up to update `last` of the phase.

    Returns:
        The mean loss over these updates.

    Raises:
        DivergedError: The loss was not finite at one of them.
    """
    trainer, position = session.protocol.trainer, session.position
    first, began = position.step_in_phase, position.step
    batches = supervised.batches(
        phase.train, trainer.batch_size, first, last, "batches", phase.index, seed=session.seed
    )
    with torch.random.fork_rng():
        torch.manual_seed(derive(session.seed, "training", phase.index, first))
        session.model.train()
        losses = torch.stack(
            [
                update(session, batch, warm_up(step, steps, trainer.warmup))
                for step, batch in zip(range(first, last), batches, strict=True)
            ]
        )
    finite = losses.isfinite()
    if not finite.all():
        where = int(torch.nonzero(~finite)[0])
        raise DivergedError(
            f"the loss became {float(losses[where])} at update {began + where} (phase {phase.index}, update "
            f"{first + where} of {steps}); a smaller --learning-rate may help. Earlier records are kept"
        )
    return float(losses.mean())
