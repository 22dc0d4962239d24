"""A trigger at work on a live model: it takes measures of it, and decides alike in every process."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

import torch

from replastic import metrics, triggers
from replastic.errors import UserError
from replastic.methods import Run
from replastic.parallel import agreement
from replastic.triggers import Trigger


def watching(trigger: str | Trigger, run: Run, *, alike: bool) -> Trigger:
    """The trigger, bound to a run, which it has looked at for the first time.

    Args:
        trigger: A spec, or the trigger itself.
        run: The run; what the trigger measures of it leaves no trace.
        alike: Whether the processes of a group decide together.

    Raises:
        UserError: There is no such trigger or measure, or something is missing that it measures on.
    """
    made = triggers.from_spec(trigger)
    for name in made.measures():
        _check(made, name, run)

    def measured(names: tuple[str, ...]) -> Mapping[str, float]:
        batch = next(islice(run.batches(), 1), None) if run.batches is not None else None
        return metrics.measure(
            names,
            store=run.store,
            recipe=run.recipe,
            model=run.model,
            batch=batch,
            loss_fn=run.loss_fn,
            generator=torch.Generator().manual_seed(run.seed % 2**63),
        )

    made.bind(measured, agreement.mean if alike else None)
    made.begin()
    return made


def _check(trigger: Trigger, name: str, run: Run) -> None:
    on = metrics.get(name).on
    if on == "change":
        raise UserError(f"the trigger {trigger.name} cannot go by {name}, which compares two states of the weights")
    if on in ("features", "loss") and run.batches is None:
        raise UserError(f"the trigger {trigger.name} measures {name} on data: pass batches=")
    if on == "loss" and run.loss_fn is None:
        raise UserError(f"the trigger {trigger.name} measures {name} of the loss: pass loss_fn=")
