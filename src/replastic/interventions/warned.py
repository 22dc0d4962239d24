"""A warning of copies of the model that nobody passed, and that go on with the old weights."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from dataclasses import replace

from torch import nn
from torch.optim import Optimizer

from replastic.weights.averages import unfollowed
from replastic.weights.followers import Followers, FollowerSet
from replastic.weights.outcome import Outcome


def warned(
    outcome: Outcome, model: nn.Module | None, optimizers: Collection[Optimizer], followers: Followers | None
) -> Outcome:
    """The outcome with a note on such copies, if there are any; a warning says it, too, unless nothing was written.

    Args:
        outcome: Of a write between two phases.
        model: The model; None for files.
        optimizers: Those that train it.
        followers: The copies that were passed.
    """
    if model is None or not outcome.written:
        return outcome
    copies = unfollowed(model, optimizers, FollowerSet(followers).identities)
    if not copies:
        return outcome
    note = (
        f"what looks like a copy of the weights was not passed, and {'would go' if outcome.dry_run else 'goes'} on "
        f"with the old ones: {', '.join(copies)}; if it is an average or a target, pass followers={{'ema': it}}"
    )
    if not outcome.dry_run:
        warnings.warn(note, stacklevel=2)
    return replace(outcome, notes=(*outcome.notes, note))
