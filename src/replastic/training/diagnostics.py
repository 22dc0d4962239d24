"""The protocol's measures of a run's network; every draw they make has a seed of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from replastic import metrics
from replastic.parallel import distributed
from replastic.seeds import generator
from replastic.training.session import Session


def measure(
    session: Session,
    phase: int,
    names: Sequence[str],
    old: Mapping[str, Tensor] | None = None,
    samples: int | None = None,
) -> dict[str, float]:
    """Measures of the run's network, on samples of the phase.

    Args:
        session: The run; left without a trace.
        phase: Index of the phase under way.
        names: Names of measures.
        old: What `snapshot` gave before the boundary, for measures of change.
        samples: How many samples of the phase; None takes as many as the protocol says.

    Returns:
        ``metric/<name>`` for the network and ``metric/<name>/<layer>`` for each layer.
    """
    run, learner = session.attached.run, session.learner
    return metrics.measure(
        names,
        store=run.store,
        recipe=run.recipe,
        model=session.model,
        batch=learner.probe(phase, samples or session.protocol.probe_samples),
        loss_fn=learner.loss,
        old=old,
        generator=generator(session.seed, "measures", phase),
    )


def watch(session: Session) -> None:
    """Let the run's trigger take measures, and show it the network at initialisation; nothing without a trigger."""
    if session.trigger is not None:
        session.trigger.bind(
            lambda names: measure(session, session.position.phase, names),
            distributed.averager(distributed.world_size()),
        )
        session.trigger.begin()


def snapshot(session: Session) -> dict[str, Tensor] | None:
    """Copies of the weights that measures of change compare with, or None if the protocol asks for none of these."""
    if not any(metrics.from_spec(name).on == "change" for name in session.protocol.boundary_metrics):
        return None
    return metrics.snapshot(session.attached.run.store, session.attached.run.recipe)
