"""The calls for a live model: `fire_`, `apply_`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from replastic import methods
from replastic.api._shared import as_method, as_model, as_recipe, check_flags, proposed, without_effect
from replastic.errors import UserError
from replastic.probes import check_loss_fn, loss_on, undisturbed
from replastic.weights.module_store import ModuleStore
from replastic.weights.outcome import Outcome
from replastic.weights.recipe import Recipe
from replastic.weights.redraw import redraw
from replastic.weights.tables import check_table
from replastic.weights.writer import write

LossFunction = Callable[[nn.Module, Any], Tensor]
"""loss_fn(model, batch) -> mean loss, a scalar tensor."""


def fire_(model: nn.Module, **arguments: Any) -> Outcome:
    """Project the weight matrices of `model` to their nearest orthonormal ones, in place, between two training phases.

    The same as ``apply_("fire", model, ...)``: see there for the arguments. Options of the method itself: `solver`
    ("exact", "iterative", "fast", "newton_schulz", "svd"), `scale` ("modular", "modular_norm", "preserve", "init",
    "procrustes", "unit"), and for "newton_schulz" `num_iters` and `coefficients`.

    Reference: FIRE (Han et al., ICLR 2026), section 3 and Algorithm 1. Differs from the authors' code in its defaults:
    an exact factor instead of 5 or 10 iterations; heads and embeddings are left alone. ``recipe="paper-cnn"`` (or
    ``paper-vit``, ``paper-gpt``, ...) does as they do.
    """
    return apply_("fire", model, **arguments)


def apply_(
    method: str | methods.Method,
    model: nn.Module,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    policy: Literal["reset_touched", "keep", "reset_all"] = "reset_touched",
    followers: Mapping[str, nn.Module | Mapping[str, Tensor]] | None = None,
    recipe: str | Path | Recipe = "default",
    target_modules: str | Sequence[str] | None = None,
    exclude_modules: Sequence[str] = (),
    include: Sequence[str] = (),
    init: Mapping[str, Tensor] | None = None,
    fresh: Callable[[int], Mapping[str, Tensor]] | None = None,
    batches: Callable[[], Iterable[Any]] | Iterable[Any] | None = None,
    loss_fn: LossFunction | None = None,
    probe: tuple[Any, LossFunction] | None = None,
    seed: int = 0,
    dry_run: bool = False,
    staging: Literal["memory", "disk"] = "memory",
    **options: Any,
) -> Outcome:
    """Rewrite the weights of `model` in place, all of them or none, as the method of that name proposes.

    Parameters keep their identity, dtype, device, memory format and `requires_grad`. Nothing is written unless every
    new value is finite. What was left alone is listed in the outcome with the reason.

    Args:
        method: Name (``replastic list methods``), a spec such as ``"fire:solver=fast"``, or a method object.
        model: The module to change.
        optimizer: The optimizer that will go on training it, so that its moments can follow.
        policy: ``reset_touched`` drops the state of rewritten parameters, ``reset_all`` all state, ``keep`` none.
        followers: Copies that must follow (target networks, averages, fp32 masters), by a name used in messages.
        recipe: Which weights; a name (``replastic list recipes``), a TOML file, or a `Recipe`.
        target_modules: Patterns that replace the recipe's choice, or ``"all-linear"``.
        exclude_modules: Patterns that are left alone whatever else says.
        include: Roles the recipe leaves alone that are to be rewritten all the same: ``head``, ``embedding``.
        init: State dict of the model at initialisation, a copy, for methods that need it.
        fresh: Draws a new initial state dict from a seed; by default each module's `reset_parameters` does.
        batches: Data of the coming phase (an iterable, or a function that returns one), for methods that need it.
        loss_fn: ``loss_fn(model, batch)``, for methods that need it.
        probe: ``(batch, loss_fn)``: print the loss on that batch before and after.
        seed: Seed of everything the method draws.
        dry_run: Compute and report all, write nothing.
        staging: Where new values wait: ``memory``, or ``disk`` for models as large as the memory.
        options: Hyperparameters of the method, when it was given by name.

    Raises:
        UserError: Wrong input; the model is unchanged.
    """
    chosen = as_method(method, options, apply_)
    check_flags(dry_run=dry_run)
    if fresh is not None and not callable(fresh):
        raise UserError(f"fresh must be a function from a seed to a state dict, got {type(fresh).__name__}")
    if loss_fn is not None:
        check_loss_fn(loss_fn)
    run = methods.Run(
        store=ModuleStore(as_model(model)),
        recipe=as_recipe(recipe),
        target_modules=target_modules,
        exclude_modules=exclude_modules,
        include=include,
        model=model,
        optimizer=optimizer,
        init=None if init is None else _initial(init, model),
        fresh=fresh or partial(redraw, model),
        batches=None if batches is None else partial(_one_pass, batches),
        loss_fn=loss_fn,
        seed=seed,
    )
    before = None if probe is None else probe_loss(model, *_probe(probe))
    with proposed(chosen, run) as change:
        idle = without_effect(chosen, run, {"init": init, "fresh": fresh, "batches": batches, "loss": loss_fn})
        outcome = write(
            run.store,
            change,
            optimizer=optimizer,
            policy=policy,
            followers=followers,
            dry_run=dry_run,
            staging=staging,
        )
    outcome = replace(outcome, notes=idle)
    if probe is None or before is None:
        return outcome
    try:
        outcome = replace(outcome, probe=(before, probe_loss(model, *probe, finite=False)))
    except BaseException:
        if not dry_run:
            outcome.undo_()
        raise
    print(outcome.probe_line())
    return outcome


def probe_loss(model: nn.Module, batch: Any, loss_fn: LossFunction, *, finite: bool = True) -> float:
    """The loss on a batch in evaluation mode, leaving no trace; see `loss_on`."""
    with undisturbed(model), torch.no_grad():
        return float(loss_on(model, batch, loss_fn, finite=finite))


def _probe(given: object) -> tuple[Any, LossFunction]:
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise UserError(f"probe must be a pair (batch, loss_fn), got {type(given).__name__}")
    batch, loss_fn = given
    check_loss_fn(loss_fn)
    return batch, loss_fn


def _initial(given: Mapping[str, Tensor], model: nn.Module) -> Mapping[str, Tensor]:
    """The initial weights, which must not be the model's own: `state_dict()` hands out those."""
    table = check_table(given, "init")
    for name, own in (*model.named_parameters(), *model.named_buffers()):
        there = table.get(name)
        if there is not None and _in_memory(there) and _in_memory(own) and there.data_ptr() == own.data_ptr():
            raise UserError(
                f"init holds {name} of the model itself, trained by now, and no copy from before: keep "
                "copy.deepcopy(model.state_dict()) when the model is made"
            )
    return table


def _in_memory(tensor: Tensor) -> bool:
    """Whether it is a plain tensor whose place in memory can be asked for, and tells it from others."""
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided
    return plain and not tensor.is_meta and tensor.numel() > 0


def _one_pass(batches: Callable[[], Iterable[Any]] | Iterable[Any]) -> Iterable[Any]:
    found = batches() if callable(batches) else batches
    if not isinstance(found, Iterable):
        raise UserError(
            "batches must be an iterable of batches, such as a DataLoader, or a function that returns one, "
            f"got {type(found).__name__}"
        )
    return found
