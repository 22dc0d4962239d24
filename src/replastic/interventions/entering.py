"""Being in the coming phase for as long as a boundary is crossed; back in the old one if that fails."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from replastic.interventions.method import Method
from replastic.interventions.run import Run
from replastic.weights.outcome import Outcome


@contextmanager
def entering(
    run: Run, method: Method | None, phase: int, outcomes: Sequence[Outcome], *, dry_run: bool
) -> Iterator[None]:
    """Be in a phase; after a dry run or an error everything is as before.

    Args:
        run: Its phase and its data are put back then.
        method: Its state is put back then; None if it is not on.
        phase: The phase to be in.
        outcomes: Filled in the block; undone after an error, the last first.
        dry_run: Whether nothing is written in the block.
    """
    past = run.phase, run.batches, run.past_batches, run.pass_steps
    kept = {} if method is None else {name: value.clone() for name, value in method.state_dict().items()}
    run.phase, done = phase, False
    try:
        yield
        done = not dry_run
    finally:
        if not done:
            run.phase, run.batches, run.past_batches, run.pass_steps = past
            for outcome in reversed(outcomes if not dry_run else ()):
                outcome.undo_()
            if method is not None:
                method.load_state_dict(kept)
