"""What happens between two phases. This is the one place that knows the order."""

from __future__ import annotations

from replastic.streams import Phase
from replastic.training import diagnostics, evaluate, supervised
from replastic.training.session import Session

Measures = dict[str, float]


def cross(session: Session, phase: Phase) -> tuple[Measures, Measures]:
    """Lead the run over the boundary before `phase`.

    In order: scores before; the method, set up if this is its first phase, proposes; the writer writes, with the run's
    optimizer policy; where a method has parts, the next one proposes for what the one before it left; scores and
    measures after; a new optimizer, or the old one kept. The measures of the weights
    before the boundary are those of the end of the phase before.

    Returns:
        Measures before and after, as the records name them. Both are taken on the data of the new phase.
    """
    protocol = session.protocol
    before = evaluate.scores(session.forward, phase)
    old = diagnostics.snapshot(session)
    inform(session, phase)
    if phase.index >= protocol.methods_from and not session.attached.is_on:
        session.attached.begin()
    session.attached.cross(phase.index)
    after = evaluate.scores(session.forward, phase)
    after |= diagnostics.measure(session, phase, protocol.boundary_metrics, old)
    return before, after


def begin(session: Session, phase: Phase) -> None:
    """Tell the method which phase it is in, turning it on in its first: all there is to do before the first phase."""
    inform(session, phase)
    session.run.phase = phase.index
    if phase.index >= session.protocol.methods_from and not session.method_is_on:
        session.attached.begin()


def inform(session: Session, phase: Phase) -> None:
    """Put what a method may know of a phase and its data into the run."""
    run, size = session.run, min(session.protocol.trainer.batch_size, len(phase.train))
    run.pass_steps = max(1, round(len(phase.train) / size))
    run.batches = lambda: supervised.one_pass(phase.train, size)
    if phase.index:
        run.past_batches = lambda: supervised.one_pass(session.phase(phase.index - 1).train, size)
