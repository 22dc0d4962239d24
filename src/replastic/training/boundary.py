"""The boundary between two phases. This is the one place that knows the order."""

from __future__ import annotations

from collections.abc import Callable

from replastic.training import diagnostics
from replastic.training.session import Session

Measures = dict[str, float]


def cross(session: Session, phase: int) -> tuple[Measures, Measures]:
    """Lead the run over the boundary before a phase.

    In order: scores before; the method is set up if this is its first phase; each of its parts proposes, and what it
    proposes is written before the next is asked; the run's policy on optimizer state; scores and measures after. The
    measures of the weights before the boundary are those of the end of the phase before.

    Returns:
        Measures before and after, as the records name them. Both are taken on the data of the new phase.
    """
    begin = phase >= session.protocol.methods_from
    session.inform(phase)
    return _over(session, phase, lambda: session.attached.cross(phase, begin=begin))


def act(session: Session, phase: int) -> tuple[Measures, Measures]:
    """Lead the run over a boundary that a trigger found inside a phase; as `cross` does, on the data of that phase.

    The method counts its own phases then, one more with every action.
    """
    session.inform(phase, session.position.acted_in)
    found = _over(session, phase, session.attached.cross)
    session.model.train()
    return found


def _over(session: Session, phase: int, cross: Callable[[], object]) -> tuple[Measures, Measures]:
    before = session.learner.evaluate(phase)
    old = diagnostics.snapshot(session)
    cross()
    session.position.acted_in = phase
    after = session.learner.evaluate(phase)
    after |= session.learner.examine(phase)
    after |= diagnostics.measure(session, phase, session.protocol.boundary_metrics, old)
    return before, after
