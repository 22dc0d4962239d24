"""The needs of a method: checked before anything starts, with a sentence that says how to meet them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import fields
from typing import Final

from replastic.errors import UserError
from replastic.interventions.method import Method, WeightMethod
from replastic.interventions.plan import Plan, plan, refuse_idle
from replastic.interventions.run import Need, Run
from replastic.interventions.spec import check_fields
from replastic.weights.entries import LiveStore

REMEDIES: Final[dict[Need, tuple[str, str]]] = {
    "model": ("the live model", "weights in a file are not enough"),
    "init": (
        "the initial weights",
        "pass init=<state dict kept from before training> (on the command line --init FILE)",
    ),
    "fresh": ("a way to draw new weights", "pass fresh=<function seed -> state dict>"),
    "batches": ("data of the coming phase", "pass batches=<iterable of batches>, such as a DataLoader"),
    "loss": ("a loss", "pass loss_fn=<function (model, batch) -> mean loss>"),
    "units": ("the live model", "it watches its units during training"),
    "optimizer": ("the optimizer that trains the model", "pass optimizer=<the optimizer>"),
    "checkpoints": (
        "checkpoints of the phase that has ended",
        "pass checkpoints=<state dicts from on the way, the oldest first> (in an experiment --checkpoints keeps them)",
    ),
    "replay": (
        "training data that it can choose",
        "in a loop of your own mix old data into your batches; of the learners `language` mixes them itself",
    ),
}
"""The thing that is missing, in words, and how to give it. For weights in files that works with `init` alone."""


Plans = Mapping[str, Plan]
"""By name of a part of a method: which weights it rewrites. Parts that are no function of the weights have none."""


def check_needs(method: Method, run: Run) -> Plans:
    """Check a method against the run it is meant for: its fields, what it needs, which weights it would touch.

    Returns:
        The plan of each part that rewrites weights.

    Raises:
        UserError: A field is not allowed or has no effect, something it needs is missing, or a pattern matches nothing.
    """
    plans = {}
    for part in method.parts:
        check_fields(part)
        require(part, run)
        _refuse_shards(part, run)
        if isinstance(part, WeightMethod):
            plans[part.name] = plan(part, run)
            for other in plans[part.name].methods:
                require(other, run)
        else:
            refuse_idle(part.name, [part], part.explicit)
            part.check(run)
    return plans


def _refuse_shards(method: Method, run: Run) -> None:
    """Refuse what looks at weights or units as they lie in memory, where each process holds a part of them alone."""
    if method.takes_shards or not isinstance(run.store, LiveStore):
        return
    sharded = next((entry.name for entry in run.store.entries() if entry.sharded), "")
    if sharded:
        raise UserError(
            f"{method.name} needs whole weights while it works, and {sharded} is sharded over processes (DTensor): "
            "take a method that rewrites weights one by one, such as fire, or leave the model unsharded"
        )


def used(method: Method, plans: Plans) -> frozenset[Need]:
    """The fields of a run that the method uses, and the methods that rules ask for in its place."""
    return method.required().union(*(other.required() for planned in plans.values() for other in planned.methods))


def require(method: Method, run: Run) -> None:
    """See that what a method needs is in the run.

    Raises:
        UserError: Something is missing; the message says how to give it.
    """
    there: dict[Need, object] = {
        "model": run.model,
        "init": run.init,
        "fresh": run.fresh,
        "batches": run.batches,
        "loss": run.loss_fn,
        "units": run.model,
        "optimizer": run.optimizer,
        "checkpoints": run.checkpoints,
        "replay": run.replay,
    }
    for need in sorted(method.required()):
        if there[need] is None:
            noun, how = REMEDIES[need]
            if run.model is None and need != "init":
                how = f"files have none; {_beyond_files(method)}"
            raise UserError(f"{method.name} needs {noun}: {how}")


def _beyond_files(method: Method) -> str:
    """The ways to go on where a method needs more than files can give: the live model, or other options of its own."""
    others = [
        f"{method.name}:{f.name}={choice}"
        for f in fields(method)
        for choice in f.metadata.get("choices", ())
        if _with(method, f.name, choice).required() <= {"init"}
    ]
    return " or ".join(["call replastic.apply_ on the live model", *(f"take {other}" for other in others)])


def _with(method: Method, name: str, value: object) -> Method:
    other = copy.copy(method)
    setattr(other, name, value)
    return other
